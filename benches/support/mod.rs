//! What the criterion benches and `benches/peers` share: streams of touches, the entries, and two contenders.

pub mod api;
pub mod cloakroom_store;
pub mod contender;
pub mod json_store;
pub mod people;
pub mod stream;
