//! Host to host: mutual TLS, names, version negotiation, framing and limits.
#![forbid(unsafe_code)]
