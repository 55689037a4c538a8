//! The command line of cloakroom.

fn main() {}
