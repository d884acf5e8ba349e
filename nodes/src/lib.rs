//! Actors: where messages meet models.
