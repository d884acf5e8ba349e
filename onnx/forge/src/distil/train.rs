//! The course of a run.
