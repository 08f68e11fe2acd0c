//! Checks of what ships.
