//! How a store comes to be: what its first shard says of it, and the mark that every shard gets.

use std::collections::BTreeMap;

use super::caller::{Caller, wait};
use super::layout::{FORMAT, Layout, Part};
use super::map::{Kind, Nodes};
use super::options::ClusterOptions;
use super::scripts::Named;
use super::value::{at, bytes, list, pairs, text};
use crate::error::{Error, Result};
use crate::random;

/// A store that is there, or is being made.
pub(super) struct Made {
    pub(super) id: String,
    pub(super) layout: Layout,
    /// It is not ready: its shards have just got their marks.
    pub(super) is_new: bool,
}

/// The id of the store, and its layout. Begins to make it if there is none and that is wanted; for a restore, which `loader`
/// names, also if it was not made to its end.
pub(super) fn made(nodes: &Nodes, first: Layout, options: &ClusterOptions, loader: Option<&str>) -> Result<Made> {
    let loads = loader.is_some();
    let meta = first.once("meta");
    let read = redis::cmd("HGETALL").arg(&meta).to_owned();
    let done = wait(nodes.call(Caller::Blocks, first.slot_of(0), Kind::Write, &|_| vec![read.clone()]))?;
    let found: BTreeMap<_, _> = pairs(at(&done.values, 0))
        .into_iter()
        .map(|(name, value)| (text(name).unwrap_or_default(), text(value).unwrap_or_default()))
        .collect();
    let of = |name: &str| found.get(name).cloned();
    let other = |reason: String| Error::OtherStore { name: first.name().to_owned(), reason };
    match of("state").as_deref() {
        Some("ready") if loads => {
            return Err(other("it is there already, and a restore makes a new one: give another name".into()));
        }
        Some("loading") if !loads => {
            return Err(other(
                "it is being restored, or a restore was cut short: wait for that, or restore it again".into(),
            ));
        }
        _ => {}
    }
    if let (Some(id), Some("ready")) = (of("id"), of("state").as_deref()) {
        if of("format") != Some(FORMAT.to_string()) {
            return Err(other(format!(
                "its format is {}, and this program reads {FORMAT}: use a cloakroom that reads it",
                of("format").unwrap_or_default()
            )));
        }
        let shards = of("shards").and_then(|shards| shards.parse().ok()).unwrap_or(0);
        if options.shards.is_some_and(|asked| asked != shards) {
            return Err(other(format!("it has {shards} shards: ask for as many, or for none")));
        }
        let layout = if shards == first.shards() { first } else { Layout::new(&options.name, shards)? };
        return Ok(Made { id, layout, is_new: false });
    }
    if !options.create {
        return Err(Error::NotFound { path: first.name().into() });
    }
    // One that was not made to its end is made again, with the id that it has, if it is to have as many shards.
    if of("shards").is_some_and(|shards| shards != first.shards().to_string()) {
        return Err(other("it is being made with another number of shards: ask for as many".into()));
    }
    let new_id = format!("{:016x}", random::bits()?);
    let args = [&new_id, &first.shards().to_string(), &FORMAT.to_string(), loader.unwrap_or_default()];
    let args = args.map(|arg| arg.as_bytes().to_vec());
    let make = |whole| vec![Named::Make.call(whole, std::slice::from_ref(&meta), &args)];
    let done = wait(nodes.call(Caller::Blocks, first.slot_of(0), Kind::Write, &make))?;
    let settled = list(at(&done.values, 0));
    let id = text(at(settled, 0)).unwrap_or_default();
    if text(at(settled, 1)) != Some(first.shards().to_string()) {
        return Err(other("it is being made with another number of shards: ask for as many".into()));
    }
    // Another process may have been first.
    let is_new = match (text(at(settled, 2)).as_deref(), loads) {
        (Some("making"), false) | (Some("loading"), true) => true,
        (Some("ready"), false) => false,
        _ => return Err(other("another process is making it: open it again in a moment".into())),
    };
    let mark = format!("{id}/{}/{FORMAT}", first.shards());
    let slots: Vec<_> = (0..first.shards()).map(|shard| (shard, first.slot_of(shard))).collect();
    let give = |shard| {
        let key = first.part(shard, Part::Mark);
        vec![
            redis::cmd("HSETNX").arg(&key).arg("mark").arg(&mark).to_owned(),
            redis::cmd("HGET").arg(&key).arg("mark").to_owned(),
        ]
    };
    for (shard, done) in wait(nodes.scatter(Caller::Blocks, &slots, &give))? {
        if bytes(at(&done.values, 1)) != Some(mark.as_bytes()) {
            // The first shard has lost what it knew, or the name was used before.
            return Err(other(format!(
                "shard {shard} carries the mark of another store of this name: the first shard was lost, and its node needs its \
                 files back; or give another name"
            )));
        }
    }
    Ok(Made { id, layout: first, is_new })
}
