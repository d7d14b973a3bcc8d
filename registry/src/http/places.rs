//! How many connections one address may have, so that one client cannot take all places.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::access::limit::network;

/// The connections that are open, by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of an address's places; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Places,
    address: IpAddr,
}

impl Places {
    /// A place for one more connection of the address, of which it may have a quarter of `all`. This
    /// machine's own programs may have all of them.
    pub(super) fn enter(&self, address: IpAddr, all: usize) -> Option<Place> {
        let most = match address.to_canonical().is_loopback() {
            true => all,
            false => (all / 4).max(1),
        };
        let address = network(address);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&address).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        open.insert(address, count + 1);
        let of = self.clone();
        Some(Place { of, address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_quarter_and_this_machine_everything() {
        let places = Places::default();
        let enter = |text: &str| places.enter(text.parse().unwrap(), 8);
        let first = enter("192.0.2.1");
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(first.is_some() && enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some(), "others have their own");
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        for local in ["127.0.0.1", "::1"] {
            let all: Vec<_> = (0..8).map(|_| enter(local).unwrap()).collect();
            drop(all);
        }
        let open = places.0.lock().unwrap().len();
        assert_eq!(open, 1, "nobody is kept for nothing");
        let _one = enter("2001:db8::1").unwrap();
        let _other = enter("2001:db8::2").unwrap();
        assert!(enter("2001:db8::3").is_none(), "one host has a whole /64");
    }
}
