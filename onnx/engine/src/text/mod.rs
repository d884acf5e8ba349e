//! A language model: a prompt goes in, tokens come out.
