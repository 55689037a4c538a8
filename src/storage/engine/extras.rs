//! Reads the extras of one entry: parts that are in memory still, and the others from their tree.

use std::sync::Arc;

use super::Engine;
use crate::codec::{Base, ExtrasIndex, ExtrasRef, Field, Parts, assemble, value_text};
use crate::entry::Extras;
use crate::error::Result;
use crate::key::SessionKey;

/// Where the parts of an entry's extras are.
#[derive(Clone, Copy)]
pub(crate) struct PartsOf<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) key: &'a SessionKey,
    /// Those that are not on disk yet.
    pub(crate) waiting: Option<&'a Parts>,
}

impl PartsOf<'_> {
    fn read(&self, at: ExtrasRef) -> Result<Arc<[u8]>> {
        match self.waiting.and_then(|waiting| waiting.get(&at.generation)) {
            Some(part) => Ok(Arc::clone(part)),
            None => Ok(self.engine.part(self.key, at)?.into()),
        }
    }

    /// A base.
    pub(crate) fn base(&self, at: ExtrasRef) -> Result<Base> {
        Base::decode(&self.read(at)?).map_err(|e| self.engine.damaged_extras(self.key, e))
    }

    /// The base that `index` names; one without anything if it names none.
    pub(crate) fn base_of(&self, index: &ExtrasIndex) -> Result<Base> {
        index.base.map_or_else(|| Ok(Base::default()), |at| self.base(at))
    }

    /// The text of one name. Reads the directory and that text.
    pub(crate) fn text(&self, index: &ExtrasIndex, name: &str) -> Result<Option<String>> {
        self.field(index, name)?.map(|field| self.text_of(&field)).transpose()
    }

    /// Whether there is one of this name. Reads the directory.
    pub(crate) fn has(&self, index: &ExtrasIndex, name: &str) -> Result<bool> {
        Ok(self.field(index, name)?.is_some())
    }

    fn field(&self, index: &ExtrasIndex, name: &str) -> Result<Option<Field>> {
        match index.changed.get(name) {
            Some(field) => Ok(field.clone()),
            None => Ok(self.base_of(index)?.fields.remove(name)),
        }
    }

    pub(in crate::storage) fn text_of(&self, field: &Field) -> Result<String> {
        match field {
            Field::Text(text) => Ok(text.clone()),
            Field::Stored(at) => {
                let part = self.read(*at)?;
                value_text(&part).map(str::to_owned).map_err(|e| self.engine.damaged_extras(self.key, e))
            }
        }
    }

    /// All parts.
    pub(crate) fn all(&self, index: Option<&ExtrasIndex>) -> Result<Parts> {
        let Some(index) = index else { return Ok(Parts::new()) };
        let mut parts = Parts::new();
        for at in index.named() {
            parts.insert(at.generation, self.read(at)?);
        }
        if index.base.is_some() {
            for field in index.directory(self.base_of(index)?).into_values() {
                if let Some(at) = field.stored().filter(|at| !parts.contains_key(&at.generation)) {
                    parts.insert(at.generation, self.read(at)?);
                }
            }
        }
        Ok(parts)
    }

    /// All extras.
    pub(crate) fn extras(&self, index: Option<&ExtrasIndex>) -> Result<Extras> {
        let Some(index) = index else { return Ok(Extras::default()) };
        let parts = self.all(Some(index))?;
        let put_together = assemble(index, |generation| parts.get(&generation).map(|part| &**part));
        put_together.map(|(_, extras)| extras).map_err(|e| self.engine.damaged_extras(self.key, e))
    }
}
