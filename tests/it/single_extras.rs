//! Extras that the workload changes one by one, small ones and large ones beside each other in one entry.
//!
//! Each text follows from its name and from a number that grows with each change. So the text shows whether it is whole,
//! and how new it is.

use cloakroom::Extras;
use serde_json::Value;

use crate::rig::file_model::Dice;

/// Enough small ones, with their long names, that an entry's record has no room for all.
const SMALL: usize = 24;
const LARGE: usize = 4;

/// The number of one of them.
pub fn any(dice: &mut Dice) -> usize {
    if dice.roll(3) == 0 { SMALL + dice.roll(LARGE) } else { dice.roll(SMALL) }
}

pub fn a_small_one(dice: &mut Dice) -> usize {
    dice.roll(SMALL)
}

pub fn a_large_one(dice: &mut Dice) -> usize {
    SMALL + dice.roll(LARGE)
}

pub fn name(which: usize) -> String {
    format!("single-{which:-<60}")
}

/// A JSON text of 20 bytes, or of 3 to 9 KB.
pub fn value(which: usize, n: u64) -> Value {
    let more = 3000 + n.wrapping_mul(0x9e37_79b9) % 6000;
    let letter = char::from(b'a' + (n % 26) as u8).to_string();
    format!("{n:018}{}", letter.repeat(if which < SMALL { 0 } else { more as usize })).into()
}

/// The number of the change that wrote a text; none if the text is not there, or not as it was written.
fn number(which: usize, extras: &Extras) -> Result<Option<u64>, String> {
    let Some(found) = extras.value(&name(which)) else { return Ok(None) };
    let n = found.as_str().and_then(|text| text.get(..18)).and_then(|n| n.parse().ok());
    match n.filter(|n| found == value(which, *n)) {
        Some(n) => Ok(Some(n)),
        None => Err(format!("extra {which} is not whole: {found:.40}")),
    }
}

/// Each is whole.
pub fn whole(extras: &Extras) -> Result<(), String> {
    (0..SMALL + LARGE).try_for_each(|which| number(which, extras).map(drop))
}

/// Each is at least as new as `told` says: of `set` and `unset` after the change was awaited, of `unsetting` before it
/// was made.
pub fn check(extras: &Extras, told: impl Fn(&str) -> u64) -> Result<(), String> {
    for which in 0..SMALL + LARGE {
        let told = |what: &str| told(&format!("{what}-{which}"));
        let (set, unsetting, unset) = (told("set"), told("unsetting"), told("unset"));
        let found = number(which, extras)?;
        let holds = match found {
            Some(n) => n >= set && n > unset,
            None => set == 0 || unsetting > set,
        };
        if !holds {
            return Err(format!("extra {which} is {found:?}; set {set}, unsetting {unsetting}, unset {unset}"));
        }
    }
    Ok(())
}
