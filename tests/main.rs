//! The integration tests, one binary: everything that needs a process, a socket or a real model.
