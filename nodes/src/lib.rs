//! Actors: where messages meet models.

pub mod contract;
