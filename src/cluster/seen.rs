//! What a node says of where things are: its map, and redirections.

use std::time::Duration;

use redis::{Connection, ServerError, Value};

use super::value::{at, int, list, text};

/// The map as a node sees it.
pub(super) struct Seen {
    pub(super) primaries: Vec<Owner>,
    pub(super) replicas: Vec<(String, Vec<String>)>,
}

/// A primary, and what it owns since an epoch.
pub(super) struct Owner {
    pub(super) node: String,
    pub(super) epoch: u64,
    /// Its replicas, with those that are called failed.
    pub(super) replicas: u64,
    ranges: Vec<(u16, u16)>,
}

impl Owner {
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last).map(usize::from)
    }
}

/// Asks a node for it.
pub(super) fn seen_by(
    node: &str,
    connection: &mut Connection,
) -> std::result::Result<Seen, Box<dyn std::error::Error + Send + Sync>> {
    let timeout = Some(Duration::from_secs(1));
    connection.set_read_timeout(timeout)?;
    connection.set_write_timeout(timeout)?;
    let info: Value = redis::cmd("CLUSTER").arg("INFO").query(connection)?;
    let info = text(&info).unwrap_or_default();
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if of("cluster_state") != Some("ok") {
        return Err("the cluster is down, as this node sees it".into());
    }
    // Lines of: id, address, flags, primary, two times, epoch, …
    let nodes: Value = redis::cmd("CLUSTER").arg("NODES").query(connection)?;
    let nodes = text(&nodes).unwrap_or_default();
    let epoch_of = |id: &str| {
        let line = nodes.lines().find(|line| line.split(' ').next() == Some(id))?;
        line.split(' ').nth(6)?.parse::<u64>().ok()
    };
    let slots: Value = redis::cmd("CLUSTER").arg("SLOTS").query(connection)?;
    let own_host = node.rsplit_once(':').map_or("", |(host, _)| host);
    let name = |value: &Value| {
        let (host, port) = (text(at(list(value), 0)).unwrap_or_default(), int(at(list(value), 1)).unwrap_or(0));
        // A node that does not know its own address.
        let host = if host.is_empty() || host == "?" { own_host.to_owned() } else { host };
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    let mut seen = Seen { primaries: Vec::new(), replicas: Vec::new() };
    for range in list(&slots) {
        let range = list(range);
        let bound = |place| int(at(range, place)).and_then(|slot| u16::try_from(slot).ok());
        let (Some(first), Some(last)) = (bound(0), bound(1)) else { continue };
        let primary = name(at(range, 2));
        let id = text(at(list(at(range, 2)), 2)).unwrap_or_default();
        match seen.primaries.iter_mut().find(|owner| owner.node == primary) {
            Some(owner) => owner.ranges.push((first, last)),
            None => {
                let replicas = range.get(3..).unwrap_or_default().iter().map(name).collect();
                seen.replicas.push((primary.clone(), replicas));
                let epoch = epoch_of(&id).unwrap_or(0);
                let replicas = nodes.lines().filter(|line| line.split(' ').nth(3) == Some(&id)).count() as u64;
                seen.primaries.push(Owner { node: primary, epoch, replicas, ranges: vec![(first, last)] });
            }
        }
    }
    Ok(seen)
}

/// The slot and the node that a redirection names. Without a host it is that of the node that says so.
pub(super) fn named_by(error: &ServerError, by: &str) -> Option<(u16, String)> {
    let mut words = error.details()?.split_whitespace();
    let (slot, node) = (words.next()?.parse().ok()?, words.next()?);
    let node = match node.strip_prefix(':') {
        Some(port) => format!("{}:{port}", by.rsplit_once(':')?.0),
        None => node.to_owned(),
    };
    Some((slot, node))
}
