//! The suite that all engines share, on the embedded store.

use cloakroom::time::ManualClock;
use cloakroom::{SessionStore, Sessions};

use crate::common::Home;
use crate::suite::{Can, Rig};

struct Embedded {
    store: SessionStore,
    home: Home,
}

impl Embedded {
    fn new() -> Self {
        let home = Home::new();
        Self { store: home.open(), home }
    }
}

impl Rig for Embedded {
    fn sessions(&self) -> &dyn Sessions {
        &self.store
    }

    fn clock(&self) -> &ManualClock {
        &self.home.clock
    }

    fn can(&self, _: Can) -> bool {
        true
    }
}

crate::conformance!(Embedded::new());
