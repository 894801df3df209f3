//! Listeners that come and go with what they are for.
//!
//! *Invariants*: a listener that is still wanted is left alone; one that cannot be opened keeps no other
//! waiting, and is tried again by the next call.

use std::{collections::BTreeMap, io, net::SocketAddr};

use tokio::task::JoinHandle;

use crate::http::{self, Respond};

/// What is listened for, and where.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place<K> {
    /// Where. First, so that what ends makes room before what begins.
    pub address: SocketAddr,
    /// What for.
    pub subject: K,
}

/// The open ones.
#[derive(Debug)]
pub struct Listeners<K> {
    open: BTreeMap<Place<K>, JoinHandle<()>>,
}

impl<K> Default for Listeners<K> {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
        }
    }
}

impl<K: Ord> Listeners<K> {
    /// Opens and closes until there are exactly those that are wanted. Returns the ones that cannot be opened.
    pub async fn sync(&mut self, wanted: BTreeMap<Place<K>, Respond>) -> Vec<(Place<K>, io::Error)> {
        let ended: Vec<_> = self
            .open
            .extract_if(.., |place, task| {
                !wanted.contains_key(place) || task.is_finished()
            })
            .collect();
        for (_, task) in ended {
            task.abort();
            // Its socket is closed once it has ended, and not before.
            let _ = task.await;
        }
        let mut failed = Vec::new();
        for (place, respond) in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            match http::listen(place.address) {
                Ok(listener) => {
                    let task = tokio::spawn(http::serve(listener, respond));
                    self.open.insert(place, task);
                }
                Err(error) => failed.push((place, error)),
            }
        }
        failed
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.len()
    }
}

impl<K> Drop for Listeners<K> {
    fn drop(&mut self) {
        self.open.values().for_each(JoinHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        sync::Arc,
    };

    use super::*;
    use crate::http::Answer;

    /// Ports that are free now.
    fn free<const N: usize>() -> [SocketAddr; N] {
        let bound: [_; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        bound.map(|listener| listener.local_addr().unwrap())
    }

    fn wanted(places: &[(SocketAddr, &str)]) -> BTreeMap<Place<String>, Respond> {
        let entry = |(address, subject): &(SocketAddr, &str)| {
            let place = Place {
                address: *address,
                subject: (*subject).to_owned(),
            };
            let respond: Respond = Arc::new(|_| Answer::text(200, "ok"));
            (place, respond)
        };
        places.iter().map(entry).collect()
    }

    #[tokio::test]
    async fn listeners_follow_what_is_wanted() {
        let [first, second] = free();
        let mut listeners = Listeners::default();
        assert!(listeners.sync(wanted(&[(first, "a")])).await.is_empty());
        let known = TcpStream::connect(first).unwrap();
        assert!(
            listeners
                .sync(wanted(&[(first, "a"), (second, "a")]))
                .await
                .is_empty()
        );
        assert_eq!(listeners.count(), 2);
        let mut byte = [0];
        known.set_nonblocking(true).unwrap();
        let kept = io::Read::read(&mut &known, &mut byte).unwrap_err();
        assert_eq!(kept.kind(), io::ErrorKind::WouldBlock, "its connections go on");

        // Another Service takes over the port in one step.
        assert!(listeners.sync(wanted(&[(first, "b")])).await.is_empty());
        assert!(TcpStream::connect(first).is_ok() && TcpStream::connect(second).is_err());
        assert!(listeners.sync(BTreeMap::new()).await.is_empty());
        assert!(
            TcpStream::connect(first).is_err(),
            "it is closed when the call returns"
        );
    }

    #[tokio::test]
    async fn one_that_cannot_be_opened_keeps_no_other_waiting_and_is_tried_again() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let [free] = free();
        let places = [(taken.local_addr().unwrap(), "a"), (free, "b")];
        let mut listeners = Listeners::default();
        let failed = listeners.sync(wanted(&places)).await;
        assert_eq!(failed.len(), 1);
        assert_eq!(
            (failed[0].0.subject.as_str(), failed[0].1.kind()),
            ("a", io::ErrorKind::AddrInUse)
        );
        assert!(TcpStream::connect(free).is_ok());
        drop(taken);
        assert!(listeners.sync(wanted(&places)).await.is_empty());
        assert_eq!(listeners.count(), 2);
    }
}
