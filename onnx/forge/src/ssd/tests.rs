//! Attacks come below; first the build.
