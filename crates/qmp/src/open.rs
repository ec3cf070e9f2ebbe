//! Open enumerations over strings: what QEMU names today, and every name it will ever use.

/// Defines a newtype over a string with constants for the known names; unknown ones are kept as they are.
macro_rules! open_string {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $constant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(pub std::borrow::Cow<'static, str>);

        impl $name {
            $($(#[$doc])* pub const $constant: Self = Self(std::borrow::Cow::Borrowed($text));)*

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::message::Printable(&self.0).fmt(f)
            }
        }
    };
}
pub(crate) use open_string;
