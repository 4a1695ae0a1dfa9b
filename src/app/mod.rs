//! Builds the rooms in order, reloads them, empties the house.
