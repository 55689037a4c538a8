//! [`ResetPolicy`]: when the next message of a conversation begins a fresh session.

use cloakroom::TimeZone;
use cloakroom::reset::{self, DailyFrom, ResetPolicies};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyMapping;

use crate::error::OrRaise;

/// When a session is over: after `idle_minutes` without activity, each day at `daily_hour` by the clocks of `zone` (the machine's
/// own, if it is None), or at whichever comes first. Zero minutes, and no hour, are no rule.
///
/// With `from_start` the daily rule counts from the session's start, and not from activity. `platforms` and `chat_types` name other
/// policies for some; the platform's counts first. Raises TimeZoneUnknown, and InvalidValue for an hour that no day has.
///
/// >>> policy = ResetPolicy(idle_minutes=1440, platforms={"discord": ResetPolicy(daily_hour=4, zone="Europe/Berlin")})
/// >>> store.resolve({"platform": "telegram", "chat_type": "dm", "chat_id": "1234"}, reset=policy).outcome
/// 'existing'
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct ResetPolicy {
    own: reset::ResetPolicy,
    pub(crate) all: ResetPolicies,
}

#[pymethods]
impl ResetPolicy {
    #[new]
    #[pyo3(signature = (
        *, idle_minutes=0, daily_hour=None, zone=None, from_start=false, platforms=None, chat_types=None
    ))]
    fn new(
        py: Python<'_>,
        idle_minutes: u64,
        daily_hour: Option<u8>,
        zone: Option<&str>,
        from_start: bool,
        platforms: Option<&Bound<'_, PyMapping>>,
        chat_types: Option<&Bound<'_, PyMapping>>,
    ) -> PyResult<Self> {
        let own = match daily_hour {
            None if zone.is_some() || from_start => {
                return Err(PyValueError::new_err("zone and from_start belong to a daily_hour"));
            }
            None => reset::ResetPolicy::idle(idle_minutes),
            Some(hour) => {
                let zone: TimeZone = zone.map_or_else(TimeZone::local, str::parse).or_raise(py)?;
                let policy = reset::ResetPolicy::both(idle_minutes, hour, zone).or_raise(py)?;
                policy.daily_from(if from_start { DailyFrom::Start } else { DailyFrom::Activity })
            }
        };
        let mut all = ResetPolicies::new(own.clone());
        for (name, policy) in named(platforms)? {
            all = all.platform(name, policy);
        }
        for (name, policy) in named(chat_types)? {
            all = all.chat_type(name, policy);
        }
        Ok(Self { own, all })
    }

    fn __repr__(&self) -> String {
        let said: Vec<_> = self.all.describe().map(|(whose, policy)| format!("{whose}: {policy}")).collect();
        format!("<ResetPolicy {}>", said.join("; "))
    }
}

fn named(policies: Option<&Bound<'_, PyMapping>>) -> PyResult<Vec<(String, reset::ResetPolicy)>> {
    let Some(policies) = policies else { return Ok(Vec::new()) };
    let each = |item: Bound<'_, PyAny>| {
        let (name, policy) = item.extract::<(String, Bound<'_, ResetPolicy>)>()?;
        Ok((name, policy.get().own.clone()))
    };
    policies.items()?.iter().map(each).collect()
}
