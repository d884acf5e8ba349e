//! Models in, smaller or divided models out.
