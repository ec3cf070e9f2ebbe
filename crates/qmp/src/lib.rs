//! JSON-lines remote calls in QMP's form: a client for QEMU, and client and server for Tenure's own sockets.
#![forbid(unsafe_code)]
