//! The first words on a link: the listener's greeting, the caller's choice. Pure.

use crate::message::VERSIONS;
use crate::{HostName, Local};
use qmp::{Command, CommandError, Greeting, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The command with which the caller answers the greeting.
pub(crate) const NEGOTIATE: &str = "negotiate";

/// What both ends of a link know of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The other host.
    pub host: HostName,
    /// Its program's version, for people.
    pub program: String,
    /// The version of the messages.
    pub messages: u32,
    /// The revision of its engine. The link stands whatever it is, so that each can be told what the other has.
    pub engine: u32,
    /// What both can do.
    pub capabilities: Vec<String>,
}

/// Why there is nothing to agree on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Something else listens there.
    #[error("it is no agent of Tenure")]
    NoAgent,
    /// It calls itself otherwise.
    #[error("it calls itself {0}")]
    OtherHost(String),
    /// One of the two is too old for the other.
    #[error(
        "version {program} there speaks versions {theirs:?} of the messages, this host {VERSIONS:?}: update the older one"
    )]
    Versions {
        /// Its program's version.
        program: String,
        /// What it speaks.
        theirs: Vec<u32>,
    },
}

/// `version` of the greeting. A newer program may say more.
#[derive(Serialize, Deserialize)]
struct Offer {
    tenure: String,
    host: String,
    messages: Vec<u32>,
    engine: u32,
}

/// The arguments of `negotiate`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    tenure: String,
    host: String,
    messages: u32,
    engine: u32,
    #[serde(default)]
    capabilities: Vec<String>,
}

/// What the listener says first.
pub(crate) fn greeting(local: &Local) -> Greeting {
    let offer = Offer {
        tenure: local.program.clone(),
        host: local.host.to_string(),
        messages: VERSIONS.to_vec(),
        engine: local.engine,
    };
    Greeting { version: object(&offer), capabilities: local.capabilities.clone() }
}

/// What the caller makes of it, and answers.
pub(crate) fn choose(
    local: &Local,
    expected: &HostName,
    greeting: Greeting,
) -> Result<(Agreed, Command), HelloError> {
    let offer = serde_json::from_value(Value::Object(greeting.version));
    let offer: Offer = offer.map_err(|_| HelloError::NoAgent)?;
    if offer.host != expected.as_str() {
        return Err(HelloError::OtherHost(offer.host.chars().take(80).collect()));
    }
    let newest = VERSIONS.iter().filter(|version| offer.messages.contains(version)).max();
    let Some(&messages) = newest else {
        return Err(HelloError::Versions { program: offer.tenure, theirs: offer.messages });
    };
    let capabilities = common(local, &greeting.capabilities);
    let choice = Choice {
        tenure: local.program.clone(),
        host: local.host.to_string(),
        messages,
        engine: local.engine,
        capabilities: capabilities.clone(),
    };
    let arguments = object(&choice);
    let agreed = Agreed {
        host: expected.clone(),
        program: offer.tenure,
        messages,
        engine: offer.engine,
        capabilities,
    };
    Ok((agreed, Command { execute: NEGOTIATE.to_owned(), arguments, id: Some(0.into()) }))
}

/// What the listener makes of the caller's answer. `host`: who it is allowed to be, by the name that it claims.
pub(crate) fn agree(
    local: &Local,
    command: &Command,
    host: impl FnOnce(&str) -> Result<HostName, CommandError>,
) -> Result<Agreed, CommandError> {
    if command.execute != NEGOTIATE {
        return Err(CommandError::generic(format!("{NEGOTIATE} comes first")));
    }
    let choice = serde_json::from_value(Value::Object(command.arguments.clone()));
    let choice: Choice = choice.map_err(|error| CommandError::generic(format!("{NEGOTIATE}: {error}")))?;
    if !VERSIONS.contains(&choice.messages) {
        let desc = format!("version {} of the messages is not spoken here", choice.messages);
        return Err(CommandError::generic(desc));
    }
    let host = host(&choice.host)?;
    let capabilities = common(local, &choice.capabilities);
    Ok(Agreed {
        host,
        program: choice.tenure,
        messages: choice.messages,
        engine: choice.engine,
        capabilities,
    })
}

fn common(local: &Local, theirs: &[String]) -> Vec<String> {
    local.capabilities.iter().filter(|own| theirs.contains(own)).cloned().collect()
}

/// Structures of strings and numbers always have a form in JSON.
fn object(value: &impl Serialize) -> Object {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => Object::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn local(host: &str, capabilities: &[&str]) -> Local {
        let capabilities = capabilities.iter().map(|&name| name.to_owned()).collect();
        Local { host: host.parse().unwrap(), program: "0.1.0".into(), engine: 3, capabilities }
    }

    fn greeting_of(version: &Value) -> Greeting {
        Greeting { version: version.as_object().unwrap().clone(), capabilities: Vec::new() }
    }

    fn chosen(version: &Value) -> Result<Agreed, HelloError> {
        let (a, b) = (local("a", &[]), "b".parse().unwrap());
        choose(&a, &b, greeting_of(version)).map(|(agreed, _)| agreed)
    }

    #[test]
    fn both_ends_agree_on_the_same() {
        let (a, b) = (local("a", &["x", "y"]), local("b", &["y", "z"]));
        let (at_caller, command) = choose(&a, &b.host, greeting(&b)).unwrap();
        let at_listener = agree(&b, &command, |claim| Ok(claim.parse().unwrap())).unwrap();
        assert_eq!(at_caller.capabilities, ["y"]);
        assert_eq!(at_listener, Agreed { host: a.host, ..at_caller.clone() });
        assert_eq!((at_caller.host, at_caller.engine), (b.host, 3));
    }

    #[test]
    fn the_newest_common_version_is_chosen_and_more_in_a_greeting_does_no_harm() {
        let offer = json!({ "tenure": "9", "host": "b", "messages": [1, 2, 9], "engine": 4, "more": [] });
        assert_eq!(chosen(&offer).unwrap().messages, 1);
    }

    #[test]
    fn a_peer_of_other_versions_is_refused_with_both() {
        let offer = json!({ "tenure": "9.0", "host": "b", "messages": [2, 3], "engine": 4 });
        let error = chosen(&offer).unwrap_err().to_string();
        assert_eq!(
            error,
            "version 9.0 there speaks versions [2, 3] of the messages, this host [1]: update the older one"
        );
    }

    #[test]
    fn qemu_is_no_agent() {
        let offer = json!({ "qemu": { "major": 7, "minor": 2, "micro": 0 }, "package": "" });
        assert_eq!(chosen(&offer), Err(HelloError::NoAgent));
    }

    fn refused(execute: &str, arguments: &Value) -> String {
        let arguments = arguments.as_object().unwrap().clone();
        let command = Command { execute: execute.into(), arguments, id: None };
        agree(&local("b", &[]), &command, |claim| Ok(claim.parse().unwrap())).unwrap_err().desc
    }

    #[test]
    fn nothing_comes_before_the_negotiation() {
        assert_eq!(refused("ping", &json!({})), "negotiate comes first");
    }

    #[test]
    fn a_choice_that_was_not_offered_is_refused() {
        let choice = json!({ "tenure": "9", "host": "a", "messages": 2, "engine": 4 });
        assert_eq!(refused(NEGOTIATE, &choice), "version 2 of the messages is not spoken here");
        let choice = json!({ "tenure": "9", "host": "a", "messages": 1, "engine": 4, "more": 1 });
        assert!(refused(NEGOTIATE, &choice).contains("unknown field `more`"));
    }

    proptest! {
        #[test]
        fn any_offer_is_chosen_from_or_refused(messages in prop::collection::vec(0..4_u32, 0..5)) {
            let offer = json!({ "tenure": "9", "host": "b", "messages": messages.clone(), "engine": 4 });
            match chosen(&offer) {
                Ok(agreed) => prop_assert!(messages.contains(&agreed.messages)),
                Err(_) => prop_assert!(!messages.contains(&1)),
            }
        }
    }
}
