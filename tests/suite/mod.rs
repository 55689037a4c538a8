//! What every engine has to do: tests over the trait `Sessions`, run for each engine by a binary of its own.
//!
//! A [`Rig`] is a store that nobody else uses, and its clock. `conformance!` makes a test of each function.
#![allow(dead_code, reason = "not every binary uses all of it")]

pub mod histories;
pub mod lists;
pub mod model;
pub mod prune;
pub mod sessions;
pub mod turns;

use std::time::Duration;

use cloakroom::change::{Resolution, Written};
use cloakroom::time::ManualClock;
use cloakroom::{SessionEntry, Sessions};

use crate::common::{key, source};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(86_400);

/// What an engine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Can {
    /// Named leases.
    Leases,
    /// A cap on the number of entries that takes the oldest of all.
    ExactCap,
    /// A receipt that is durable.
    Durable,
    /// Another key for an entry.
    Rename,
    /// A lease that has ended once its drop returns.
    EndAtDrop,
}

/// A store of its own for each test.
pub trait Rig {
    fn sessions(&self) -> &dyn Sessions;
    fn clock(&self) -> &ManualClock;
    fn can(&self, what: Can) -> bool;
}

/// A test for each function of the suite; `$rig` makes a fresh store.
#[macro_export]
macro_rules! conformance {
    ($rig:expr) => {
        $crate::conformance!(@ $rig, sessions: a_message_starts_touches_or_replaces_a_session
            a_gateway_has_keys_and_ids_of_its_own a_touch_never_goes_back many_threads_get_one_session
            no_change_is_lost_between_threads a_put_goes_by_what_is_there a_put_keeps_its_time_exactly
            an_entry_is_modified_in_one_step a_modification_runs_again_after_a_change a_key_leads_to_another_session
            a_reset_keeps_what_it_is_to extras_go_by_name too_much_is_refused what_is_seen_may_be_removed
            every_change_gives_a_new_revision an_entry_keeps_all_of_its_fields odd_keys_are_keys
            a_receipt_is_kept a_bad_cost_is_refused the_last_interaction_follows_messages);
        $crate::conformance!(@ $rig, prune: what_is_idle_goes_and_what_is_protected_stays a_dry_run_tells_the_same
            the_guard_is_asked_with_the_key a_touch_wins_against_a_pass a_guard_that_fails_keeps
            what_is_active_for_too_long_goes a_cap_takes_the_oldest a_policy_ends_sessions);
        $crate::conformance!(@ $rig, turns: a_turn_begins_and_ends one_of_many_begins
            a_turn_belongs_to_its_session a_resume_is_marked_and_cleared a_lease_holds_until_its_end
            a_lease_ends_with_its_entry a_lease_lasts_as_long_as_it_is_held);
        $crate::conformance!(@ $rig, lists: an_id_leads_to_its_entries lists_are_newest_first filters_filter keys_are_found_by_prefix
            many_are_removed_by_a_filter a_user_is_forgotten);

        #[test]
        fn the_store_is_a_map() {
            $crate::suite::model::the_store_is_a_map(&|| $rig);
        }
    };
    (@ $rig:expr, $module:ident: $($name:ident)*) => {
        $(#[test]
        fn $name() {
            $crate::suite::$module::$name(&$rig);
        })*
    };
}

/// Random numbers that are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// A session that has just begun.
fn begin(rig: &dyn Rig, n: usize) -> SessionEntry {
    let resolved = rig.sessions().resolve(&source(n)).unwrap();
    assert_eq!(resolved.resolution, Resolution::Created);
    resolved.entry
}

/// The entry that there is.
fn get(rig: &dyn Rig, n: usize) -> SessionEntry {
    rig.sessions().get(&key(n)).unwrap().expect("there is an entry")
}

/// The entry that a verb left is the one that a reader sees.
#[track_caller]
fn seen(rig: &dyn Rig, written: &Written) {
    assert_eq!(rig.sessions().get(&written.entry.key).unwrap().as_ref(), Some(&written.entry));
}

/// An entry that differs from another.
fn with(mut entry: SessionEntry, change: impl FnOnce(&mut SessionEntry)) -> SessionEntry {
    change(&mut entry);
    entry
}
