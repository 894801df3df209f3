//! How a type of a map is laid out, read from the type information (BTF) that the kernel keeps with every map of ours,
//! and how a value of one layout becomes one of another.
//!
//! Format: the kernel's `Documentation/bpf/btf.rst`. *Rule*: a field of the same name means the same in every version. What
//! means something else, or is in another unit, gets another name. So an agent reads the maps of older and of newer ones.

use std::{collections::BTreeMap, ops::Range};

/// Nested types deeper than this are no types of ours.
const DEPTH: u32 = 16;

/// A type: its size, and where its fields are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(in crate::load) struct Schema {
    /// In bytes.
    size: usize,
    /// By the names from the outside in, with dots between them. An array is one field.
    fields: BTreeMap<String, Range<usize>>,
}

/// Why a layout is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("its type information cannot be read at type {0}")]
pub(in crate::load) struct SchemaError(u32);

/// Kinds of types that maps can be made of.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
    /// Other names and properties of a type.
    pub(super) const ALIASES: [u32; 5] = [8, 9, 10, 11, 18];
}

/// One type: its kind, the number of its members, its size or what it refers to, and what follows.
struct Type<'a> {
    kind: u32,
    members: usize,
    size_or_type: u32,
    rest: &'a [u8],
}

/// All types of an object.
struct Types<'a> {
    types: Vec<Type<'a>>,
    strings: &'a [u8],
}

fn word(bytes: &[u8], number: usize) -> Option<u32> {
    let bytes = bytes.get(number * 4..number * 4 + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Option<Self> {
        // Magic, version and flags; then five words.
        let header = word(btf, 1)? as usize;
        let section = |offset: usize| {
            let start = header.checked_add(word(btf, offset)? as usize)?;
            btf.get(start..start.checked_add(word(btf, offset + 1)? as usize)?)
        };
        let (mut rest, strings) = (section(2)?, section(4)?);
        let mut types = Vec::new();
        while !rest.is_empty() {
            let info = word(rest, 1)?;
            let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let length = match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * members,
                kind::ENUM | kind::FUNC_PROTO => 8 * members,
                _ => 0,
            };
            types.push(Type {
                kind,
                members,
                size_or_type: word(rest, 2)?,
                rest: rest.get(12..12 + length)?,
            });
            rest = &rest[12 + length..];
        }
        Some(Self { types, strings })
    }

    fn get(&self, id: u32) -> Option<&Type<'a>> {
        self.types.get(id.checked_sub(1)? as usize)
    }

    fn name(&self, offset: u32) -> Option<&'a str> {
        let rest = self.strings.get(offset as usize..)?;
        std::str::from_utf8(rest.split(|byte| *byte == 0).next()?).ok()
    }

    fn size(&self, id: u32, depth: u32) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        let found = self.get(id)?;
        match found.kind {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 => {
                Some(found.size_or_type as usize)
            }
            kind::ARRAY => {
                let element = self.size(word(found.rest, 0)?, depth)?;
                element.checked_mul(word(found.rest, 2)? as usize)
            }
            kind if kind::ALIASES.contains(&kind) => self.size(found.size_or_type, depth),
            _ => None,
        }
    }

    /// Notes the fields of a type that is at `offset` under the name `path`.
    fn fields(
        &self,
        id: u32,
        path: &str,
        offset: usize,
        depth: u32,
        found: &mut BTreeMap<String, Range<usize>>,
    ) -> Option<()> {
        let inner = depth.checked_sub(1)?;
        let this = self.get(id)?;
        if kind::ALIASES.contains(&this.kind) {
            return self.fields(this.size_or_type, path, offset, inner, found);
        }
        if this.kind != kind::STRUCT {
            found.insert(path.to_owned(), offset..offset + self.size(id, depth)?);
            return Some(());
        }
        for member in 0..this.members {
            let name = self.name(word(this.rest, member * 3)?)?;
            let bits = word(this.rest, member * 3 + 2)? as usize;
            let path = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            };
            self.fields(
                word(this.rest, member * 3 + 1)?,
                &path,
                offset + bits / 8,
                inner,
                found,
            )?;
        }
        Some(())
    }
}

impl Schema {
    /// Of the type with this number.
    pub(in crate::load) fn read(btf: &[u8], id: u32) -> Result<Self, SchemaError> {
        let read = || {
            let types = Types::parse(btf)?;
            let mut fields = BTreeMap::new();
            types.fields(id, "", 0, DEPTH, &mut fields)?;
            let size = types.size(id, DEPTH)?;
            fields
                .values()
                .all(|field| field.end <= size)
                .then_some(Self { size, fields })
        };
        read().ok_or(SchemaError(id))
    }

    /// In bytes.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Where a field is, if there is one of this name.
    pub(super) fn field(&self, name: &str) -> Option<Range<usize>> {
        self.fields.get(name).cloned()
    }
}

/// The number in a field of at most four bytes; 0 if there is no field.
pub(super) fn number(field: Option<Range<usize>>, value: &[u8]) -> u32 {
    let bytes = field.and_then(|field| value.get(field)).unwrap_or_default();
    bytes
        .iter()
        .take(4)
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// How values of one layout become those of another: fields of the same name are copied, new ones are zero. A number that has
/// become wider keeps its value (both sides are little-endian), one that has become narrower loses its upper bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conversion {
    size: usize,
    moves: Vec<(Range<usize>, usize)>,
}

impl Conversion {
    pub(super) fn between(old: &Schema, new: &Schema) -> Self {
        let moves = new.fields.iter().filter_map(|(name, to)| {
            let from = old.fields.get(name)?;
            let length = from.len().min(to.len());
            Some((from.start..from.start + length, to.start))
        });
        Self {
            size: new.size,
            moves: moves.collect(),
        }
    }

    /// `old` has the size of the old layout.
    pub(super) fn apply(&self, old: &[u8]) -> Vec<u8> {
        let mut new = vec![0; self.size];
        for (from, to) in &self.moves {
            new[*to..*to + from.len()].copy_from_slice(&old[from.clone()]);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes type information.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
        last: u32,
    }

    impl Writer {
        fn new() -> Self {
            Self {
                strings: vec![0],
                ..Self::default()
            }
        }

        fn add(&mut self, kind: u32, members: u32, size_or_type: u32, rest: &[u32]) -> u32 {
            for word in [0, kind << 24 | members, size_or_type].iter().chain(rest) {
                self.types.extend(word.to_ne_bytes());
            }
            self.last += 1;
            self.last
        }

        fn int(&mut self, size: u32) -> u32 {
            self.add(kind::INT, 0, size, &[size * 8])
        }

        fn structure(&mut self, size: u32, members: &[(&str, u32, u32)]) -> u32 {
            let mut words = Vec::new();
            for (name, id, offset) in members {
                words.extend([self.strings.len() as u32, *id, offset * 8]);
                self.strings.extend(name.bytes());
                self.strings.push(0);
            }
            self.add(kind::STRUCT, members.len() as u32, size, &words)
        }

        fn bytes(&self) -> Vec<u8> {
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            let head = [0x0001_eb9f, 24, 0, types, types, strings];
            let head = head.iter().flat_map(|word| word.to_ne_bytes());
            head.chain(self.types.clone())
                .chain(self.strings.clone())
                .collect()
        }
    }

    /// An address and a port, then the time; with something new between them, if that is said.
    fn layout(wide: bool) -> Schema {
        let mut writer = Writer::new();
        let (byte, short, long) = (writer.int(1), writer.int(2), writer.int(4));
        let bytes = writer.add(kind::ARRAY, 0, 0, &[byte, long, 4]);
        let alias = writer.add(kind::ALIASES[0], 0, bytes, &[]);
        let address = writer.structure(4, &[("bytes", alias, 0)]);
        let end = writer.structure(6, &[("address", address, 0), ("port", short, 4)]);
        let id = if wide {
            writer.structure(
                20,
                &[
                    ("added", long, 0),
                    ("to", end, 4),
                    ("state", long, 12),
                    ("seen", long, 16),
                ],
            )
        } else {
            writer.structure(12, &[("to", end, 0), ("state", byte, 7), ("seen", long, 8)])
        };
        Schema::read(&writer.bytes(), id).unwrap()
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let schema = layout(false);
        assert_eq!(schema.size(), 12);
        let fields: Vec<_> = schema
            .fields
            .iter()
            .map(|(name, at)| (name.as_str(), at.clone()))
            .collect();
        assert_eq!(
            fields,
            [
                ("seen", 8..12),
                ("state", 7..8),
                ("to.address.bytes", 0..4),
                ("to.port", 4..6)
            ]
        );
        let value = [10, 0, 0, 1, 0x90, 0x1f, 0, 3, 7, 1, 0, 0];
        for (field, found) in [("seen", 263), ("to.port", 8080), ("to.name", 0)] {
            assert_eq!(number(schema.field(field), &value), found, "{field}");
        }
    }

    #[test]
    fn values_survive_the_way_there_and_back() {
        let (narrow, wide) = (layout(false), layout(true));
        let value = [10, 0, 0, 1, 0x90, 0x1f, 0, 3, 7, 1, 0, 0];
        let there = Conversion::between(&narrow, &wide).apply(&value);
        assert_eq!(
            there,
            [0, 0, 0, 0, 10, 0, 0, 1, 0x90, 0x1f, 0, 0, 3, 0, 0, 0, 7, 1, 0, 0],
            "moved, widened, and zero where nothing was"
        );
        assert_eq!(Conversion::between(&wide, &narrow).apply(&there), value);
    }

    #[test]
    fn what_is_no_type_information_is_an_error() {
        let mut writer = Writer::new();
        let endless = writer.add(kind::ALIASES[0], 0, 1, &[]);
        let outside = writer.add(kind::ALIASES[0], 0, 99, &[]);
        let long = writer.int(4);
        let too_long = writer.structure(2, &[("field", long, 0)]);
        let bytes = writer.bytes();
        for id in [0, endless, outside, too_long, 99] {
            assert_eq!(Schema::read(&bytes, id), Err(SchemaError(id)));
        }
        for length in 0..bytes.len() {
            assert!(
                Schema::read(&bytes[..length], long).is_err(),
                "{length} bytes of it"
            );
        }
    }
}
