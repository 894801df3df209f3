//! What a network makes of packets: fragments of them, and ICMP errors that quote them.

use std::net::IpAddr;
use std::vec::Vec;

use super::{Packet, icmp, other};
use crate::testing::checksum::Layers;

impl Packet {
    /// The packet in fragments of `size` bytes (a multiple of eight) of what the network carries.
    ///
    /// # Panics
    /// If the packet cannot be built.
    #[must_use]
    pub fn in_fragments(&self, size: usize) -> Vec<Self> {
        let frame = self.build();
        let layers = Layers::of(&frame).expect("a packet that was built");
        let body = &frame[layers.transport..layers.end];
        let pieces = body.chunks(size).count();
        let piece = |(number, bytes): (usize, &[u8])| Self {
            fragment: Some(((number * size) as u16, number + 1 < pieces)),
            payload: bytes.to_vec(),
            transport: other(self.source.ip(), self.destination.ip(), layers.protocol).transport,
            ..self.clone()
        };
        body.chunks(size).enumerate().map(piece).collect()
    }

    /// The packet's bytes from the network header on: what an ICMP error quotes.
    #[must_use]
    pub fn quotable(&self) -> Vec<u8> {
        self.build()[14..].to_vec()
    }

    /// The ICMP error of `from` that quotes the first `length` bytes of this packet.
    #[must_use]
    pub fn error(&self, from: IpAddr, kind: u8, code: u8, length: usize) -> Self {
        let quote = self.quotable();
        let quote = &quote[..quote.len().min(length)];
        icmp(from, self.source.ip(), kind, code).payload(quote)
    }

    /// The identification.
    #[must_use]
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }
}
