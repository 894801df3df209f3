//! Maps whose types are known only when they are there: keys and values as bytes, of the lengths that the kernel says.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    io,
    mem::size_of,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{MapError, MapFd, MapInfo};
use aya_obj::generated::{bpf_btf_info, bpf_cmd, bpf_map_info, bpf_map_type};

use super::schema::{Schema, SchemaError};
use crate::load::MapShape;

/// Entries that are asked for at a time.
const BATCH: usize = 4096;

/// A map, opened by its pin.
#[derive(Debug)]
pub(super) struct RawMap {
    fd: MapFd,
    info: bpf_map_info,
}

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RawError {
    /// It cannot be opened.
    #[error("it cannot be opened")]
    Open(#[from] MapError),
    /// The kernel refuses something.
    #[error("the kernel refuses to {0}")]
    Kernel(&'static str, #[source] io::Error),
    /// It is none whose values have one length.
    #[error("it is no hash table")]
    NoTable,
    /// It has no type information.
    #[error("the kernel has no type information of it")]
    NoTypes,
    /// It has some that is none.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// `BPF_OBJ_GET_INFO_BY_FD`
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// `BPF_BTF_GET_FD_BY_ID`
#[repr(C)]
struct GetById {
    id: u32,
    next: u32,
    flags: u32,
}

/// `BPF_MAP_LOOKUP_ELEM`, `BPF_MAP_UPDATE_ELEM`
#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_MAP_LOOKUP_BATCH`
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

impl RawMap {
    /// Opens the table that is pinned there, whose values are one each and not one for each CPU.
    pub(super) fn open_table(pin: &Path) -> Result<Self, RawError> {
        let map = Self::open(pin)?;
        if map.is_table() {
            Ok(map)
        } else {
            Err(RawError::NoTable)
        }
    }

    fn is_table(&self) -> bool {
        [
            bpf_map_type::BPF_MAP_TYPE_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_HASH,
        ]
        .iter()
        .any(|table| *table as u32 == self.info.type_)
    }

    /// Opens the map that is pinned there.
    pub(super) fn open(pin: &Path) -> Result<Self, RawError> {
        let fd = MapInfo::from_pin(pin)?.fd()?;
        // SAFETY: a structure of integers, for which zero is valid.
        let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
        let number = fd.as_fd().as_raw_fd().cast_unsigned();
        let length = size_of::<bpf_map_info>();
        get_info(number, (&raw mut info).cast(), length)
            .map_err(|error| RawError::Kernel("describe it", error))?;
        Ok(Self { fd, info })
    }

    /// The kernel's number of it.
    pub(super) const fn id(&self) -> u32 {
        self.info.id
    }

    /// Its shape.
    pub(super) const fn shape(&self) -> MapShape {
        MapShape {
            map_type: self.info.type_,
            key_size: self.info.key_size,
            value_size: self.info.value_size,
            max_entries: self.info.max_entries,
            flags: self.info.map_flags,
        }
    }

    /// How its keys and values are laid out.
    pub(super) fn schemas(&self) -> Result<[Schema; 2], RawError> {
        if self.info.btf_id == 0 {
            return Err(RawError::NoTypes);
        }
        let btf = type_information(self.info.btf_id)
            .map_err(|error| RawError::Kernel("give its type information", error))?;
        let key = Schema::read(&btf, self.info.btf_key_type_id)?;
        let value = Schema::read(&btf, self.info.btf_value_type_id)?;
        let sizes = [key.size() as u32, value.size() as u32];
        if sizes != [self.info.key_size, self.info.value_size] {
            return Err(RawError::NoTypes);
        }
        Ok([key, value])
    }

    /// Calls `visit` with every key and its value. Entries that come or go meanwhile may be missed or not.
    ///
    /// # Panics
    /// If it is no hash table.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), RawError> {
        assert!(self.is_table());
        let (key_size, value_size) = (self.info.key_size as usize, self.info.value_size as usize);
        let mut room = BATCH;
        let mut keys = vec![0; room * key_size];
        let mut values = vec![0; room * value_size];
        // The number of a bucket; of other tables a key.
        let mut place = vec![0_u8; key_size.max(4)];
        let mut next = place.clone();
        let mut is_first = true;
        loop {
            let mut batch = Batch {
                from: if is_first { 0 } else { address(&mut place) },
                to: address(&mut next),
                keys: address(&mut keys),
                values: address(&mut values),
                count: room as u32,
                map: self.number(),
                element_flags: 0,
                flags: 0,
            };
            let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut batch);
            match &result {
                // A bucket with more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.resize(room * key_size, 0);
                    values.resize(room * value_size, 0);
                    continue;
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RawError::Kernel("list it", result.expect_err("it is one")));
                }
                _ => {}
            }
            let count = batch.count as usize;
            let (keys, values) = (keys.chunks_exact(key_size), values.chunks_exact(value_size));
            keys.zip(values)
                .take(count)
                .for_each(|(key, value)| visit(key, value));
            if result.is_err() {
                return Ok(());
            }
            std::mem::swap(&mut place, &mut next);
            is_first = false;
        }
    }

    /// The value of a key.
    ///
    /// # Panics
    /// If it is no hash table, or the key is not as long as its keys are.
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        assert!(self.is_table());
        assert_eq!(key.len(), self.info.key_size as usize);
        let mut value = vec![0; self.info.value_size as usize];
        let mut element = self.element(key, &mut value, 0);
        bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut element).ok()?;
        Some(value)
    }

    /// Gives a key a value: one that is new if `is_new`, otherwise one that is there.
    ///
    /// # Panics
    /// If it is no hash table, or key or value are not as long as its are.
    pub(super) fn set(&self, key: &[u8], value: &mut [u8], is_new: bool) -> io::Result<()> {
        const NO_SUCH: u64 = 1;
        const THERE: u64 = 2;
        assert!(self.is_table());
        assert_eq!(key.len(), self.info.key_size as usize);
        assert_eq!(value.len(), self.info.value_size as usize);
        let mut element = self.element(key, value, if is_new { NO_SUCH } else { THERE });
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut element)
    }

    fn element(&self, key: &[u8], value: &mut [u8], flags: u64) -> Element {
        Element {
            map: self.number(),
            reserved: 0,
            key: key.as_ptr() as u64,
            value: address(value),
            flags,
        }
    }

    fn number(&self) -> u32 {
        self.fd.as_fd().as_raw_fd().cast_unsigned()
    }
}

fn address(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr() as u64
}

/// The type information with this number.
fn type_information(id: u32) -> io::Result<Vec<u8>> {
    let mut by_id = GetById {
        id,
        next: 0,
        flags: 0,
    };
    let fd = call(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut by_id)?;
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let number = fd.as_raw_fd().cast_unsigned();
    let mut bytes = Vec::new();
    // First how much there is, then all of it.
    for _ in 0..2 {
        // SAFETY: a structure of integers, for which zero is valid.
        let mut info: bpf_btf_info = unsafe { std::mem::zeroed() };
        info.btf = address(&mut bytes);
        info.btf_size = bytes.len() as u32;
        get_info(number, (&raw mut info).cast(), size_of::<bpf_btf_info>())?;
        bytes.resize(info.btf_size as usize, 0);
    }
    Ok(bytes)
}

/// Has the kernel describe what a descriptor stands for, in a structure of `length` bytes at `info`.
fn get_info(fd: u32, info: *mut c_void, length: usize) -> io::Result<()> {
    let info = info as u64;
    let length = length as u32;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut GetInfo { fd, length, info })
}

fn bpf<T>(command: bpf_cmd, argument: &mut T) -> io::Result<()> {
    call(command, argument).map(drop)
}

/// One call; whatever the argument points to is alive until it returns.
fn call<T>(command: bpf_cmd, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the argument is one of the structures above, of the size that is passed. Its pointers lead to memory that the
    // callers hold, as long as what the kernel reads or writes there: keys and values have the lengths that it gave itself, and of hash tables
    // (which is asserted) the values are no more than that.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(argument),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).expect("a descriptor, or zero"))
}
