//! The bounded read: the only way into a packet's bytes.

use bytemuck::AnyBitPattern;

/// Something that bytes can be read from by offset.
pub trait Cursor {
    /// The value at `offset`, bytes in packet order; `None` if the packet ends before its end.
    fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T>;
}

impl Cursor for &[u8] {
    fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        self.get(offset..end).map(bytemuck::pod_read_unaligned)
    }
}
