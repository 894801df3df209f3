//! The embedded eBPF object, and the shapes of the maps it declares.

use std::collections::BTreeMap;

use aya_obj::Object;

use super::handover::{Schema, SchemaError};

/// What is wrong with the embedded object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The agent was compiled before there was an object.
    #[error("built without the eBPF object: run `cargo xtask build`")]
    Missing,
    /// It is not an eBPF object that this agent understands.
    #[error("the embedded eBPF object cannot be parsed; rebuild it with `cargo xtask build`")]
    Parse(#[from] aya_obj::ParseError),
}

/// What the kernel compares when a program uses a map: two maps of the same shape are interchangeable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapShape {
    /// The kernel's number of the map type.
    pub map_type: u32,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes.
    pub value_size: u32,
    /// Capacity in elements.
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
}

/// The object that `build.rs` was given.
///
/// # Errors
/// If it was given none.
pub fn embedded() -> Result<&'static [u8], ObjectError> {
    let object: &'static [u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf.o"));
    if object.is_empty() {
        Err(ObjectError::Missing)
    } else {
        Ok(object)
    }
}

/// How the maps of an object are laid out.
#[derive(Default, Debug)]
pub(super) struct MapTypes {
    btf: Vec<u8>,
    /// The numbers of the types of keys and values, by the map's name.
    ids: BTreeMap<String, [u32; 2]>,
}

impl MapTypes {
    /// Of a map's keys and values.
    pub(super) fn schemas(&self, name: &str) -> Option<Result<[Schema; 2], SchemaError>> {
        let [key, value] = *self.ids.get(name)?;
        let both = || Ok([Schema::read(&self.btf, key)?, Schema::read(&self.btf, value)?]);
        Some(both())
    }
}

/// How the maps that `object` declares are laid out.
///
/// # Errors
/// If it cannot be parsed.
pub(super) fn map_types(object: &[u8]) -> Result<MapTypes, ObjectError> {
    let object = Object::parse(object)?;
    let ids = object.maps.iter().filter_map(|(name, map)| match map {
        aya_obj::Map::Btf(map) => Some((name.clone(), [map.def.btf_key_type_id, map.def.btf_value_type_id])),
        aya_obj::Map::Legacy(_) => None,
    });
    Ok(MapTypes {
        btf: object
            .btf
            .as_ref()
            .map(aya_obj::btf::Btf::to_bytes)
            .unwrap_or_default(),
        ids: ids.collect(),
    })
}

/// The maps that `object` declares, by name, as they are to be created.
///
/// # Errors
/// If it cannot be parsed.
pub(super) fn map_shapes(
    object: &[u8],
    max_entries: &BTreeMap<&'static str, u32>,
) -> Result<BTreeMap<String, MapShape>, ObjectError> {
    let object = Object::parse(object)?;
    let shape = |name: &str, map: &aya_obj::Map| MapShape {
        map_type: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: max_entries.get(name).copied().unwrap_or(map.max_entries()),
        flags: map.map_flags(),
    };
    Ok(object
        .maps
        .iter()
        .map(|(name, map)| (name.clone(), shape(name, map)))
        .collect())
}
