//! The pages of `docs/`, one for each subject.

#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("../docs/backups.md")]
pub mod backups {}

#[doc = include_str!("../docs/cluster.md")]
pub mod cluster {}

#[doc = include_str!("../docs/command-line.md")]
pub mod command_line {}

#[doc = include_str!("../docs/configuration.md")]
pub mod configuration {}

#[doc = include_str!("../docs/cookbook.md")]
pub mod cookbook {}

#[doc = include_str!("../docs/figures.md")]
pub mod figures {}

#[doc = include_str!("../docs/hermes.md")]
pub mod hermes {}

#[doc = include_str!("../docs/metrics.md")]
pub mod metrics {}

#[doc = include_str!("../docs/moving.md")]
pub mod moving {}

#[doc = include_str!("../docs/promises.md")]
pub mod promises {}

#[doc = include_str!("../SECURITY.md")]
pub mod security {}
