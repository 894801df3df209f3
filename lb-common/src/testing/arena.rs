//! Values that stay where they are: what is put in can be lent out while more is put in.
//!
//! Like the elements of a BPF map: a reader's reference outlives the element's removal. Nothing is freed
//! before the whole arena is.

use std::{boxed::Box, cell::Cell, cell::OnceCell};

type Chunk<T> = OnceCell<Box<[OnceCell<T>]>>;

/// Chunks of 1, 2, 4 ... values.
#[derive(Debug)]
pub(super) struct Arena<T> {
    chunks: [Chunk<T>; 32],
    length: Cell<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self {
            chunks: [const { OnceCell::new() }; 32],
            length: Cell::new(0),
        }
    }
}

impl<T> Arena<T> {
    /// Puts a value in, and gives its number.
    pub(super) fn push(&self, value: T) -> u32 {
        let number = self.length.get();
        self.length.set(number + 1);
        let (chunk, at) = place(number);
        let size = 1 << chunk;
        let values = self.chunks[chunk].get_or_init(|| (0..size).map(|_| OnceCell::new()).collect());
        assert!(values[at].set(value).is_ok(), "each number is given once");
        number
    }

    /// The value with a number that [`Arena::push`] has given.
    pub(super) fn get(&self, number: u32) -> &T {
        let (chunk, at) = place(number);
        let values = self.chunks[chunk].get().expect("its chunk was made for it");
        values[at].get().expect("it was put in")
    }
}

/// Chunk, and place in it.
const fn place(number: u32) -> (usize, usize) {
    let chunk = (number + 1).ilog2();
    (chunk as usize, (number + 1 - (1 << chunk)) as usize)
}
