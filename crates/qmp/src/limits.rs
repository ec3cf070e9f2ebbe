//! What one connection may cost, whatever the other end sends.

/// Bounds on one connection. Whatever exceeds one of them ends the connection with an error that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message, its line end not counted.
    pub line: usize,
    /// Arrays and objects inside each other.
    pub depth: usize,
    /// Values in one message. A value takes some 32 bytes of memory however short it was written.
    pub values: usize,
    /// Commands without an answer yet, those included whose caller has given up.
    pub outstanding: usize,
    /// Events that one listener has not taken yet; the oldest are dropped, and counted.
    pub events: usize,
    /// File descriptors that came along and nobody has taken yet.
    pub descriptors: usize,
}

impl Limits {
    /// For QEMU, whose `query-qmp-schema` answers with hundreds of kilobytes and tens of thousands of values.
    pub const QEMU: Self =
        Self { line: 16 << 20, depth: 64, values: 1 << 18, outstanding: 64, events: 1024, descriptors: 8 };
    /// For everybody else.
    pub const TENURE: Self = Self { line: 1 << 20, values: 1 << 16, ..Self::QEMU };
}
