//! Which blobs are on their way: one download for each digest, however many want it.
//!
//! A download whose last client has gone goes on when more than half of the blob is here: the next
//! pull of the image is near. Otherwise it stops, and nothing of it is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::name::RepositoryName;
use tokio::sync::Notify;

use super::arrival::Arrival;
use crate::digest::Digest;

/// All downloads. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Digest, Flight>>>);

#[derive(Debug)]
struct Flight {
    arrival: Arc<Arrival>,
    wanted: usize,
    abandoned: Arc<Notify>,
}

/// One client's wish for a blob; dropping it takes the wish back.
#[derive(Debug)]
pub(super) struct Seat {
    flights: Flights,
    arrival: Arc<Arrival>,
}

/// What a client finds that asks for a blob.
pub(super) enum Boarded {
    /// Somebody else has begun.
    Joined(Seat),
    /// It is fetched for other repositories only; whether this one has it must be asked first.
    Elsewhere,
    /// The caller is the one to fetch it, until the notice comes that nobody wants it any more.
    First(Seat, Arc<Notify>),
}

impl Flights {
    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Flight>> {
        // Every change is one insertion, removal or count, so a poisoned map is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place. `granted` is whether the repository is known to have the blob.
    pub(super) fn board(
        &self,
        digest: &Digest,
        repository: &RepositoryName,
        granted: bool,
    ) -> Boarded {
        let mut flights = self.all();
        if let Some(flight) = flights.get_mut(digest) {
            let in_time = if granted {
                flight.arrival.claim(repository)
            } else {
                flight.arrival.is_for(repository)
            };
            if !in_time {
                return Boarded::Elsewhere;
            }
            flight.wanted += 1;
            return Boarded::Joined(self.seat(&flight.arrival));
        }
        let flight = Flight {
            arrival: Arc::new(Arrival::new(digest.clone(), repository.clone())),
            wanted: 1,
            abandoned: Arc::default(),
        };
        let first = Boarded::First(self.seat(&flight.arrival), Arc::clone(&flight.abandoned));
        flights.insert(digest.clone(), flight);
        first
    }

    /// Whether the blob is on its way for anybody, to wait for its end.
    pub(super) fn arrival(&self, digest: &Digest) -> Option<Arc<Arrival>> {
        let flights = self.all();
        flights
            .get(digest)
            .map(|flight| Arc::clone(&flight.arrival))
    }

    /// The download is over; whoever comes now finds its outcome elsewhere.
    pub(super) fn landed(&self, arrival: &Arc<Arrival>) {
        let mut flights = self.all();
        let same = |flight: &Flight| Arc::ptr_eq(&flight.arrival, arrival);
        if flights.get(&arrival.digest).is_some_and(same) {
            flights.remove(&arrival.digest);
        }
    }

    fn seat(&self, arrival: &Arc<Arrival>) -> Seat {
        Seat {
            flights: self.clone(),
            arrival: Arc::clone(arrival),
        }
    }
}

impl Seat {
    pub(super) fn arrival(&self) -> &Arc<Arrival> {
        &self.arrival
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut flights = self.flights.all();
        let Some(flight) = flights.get_mut(&self.arrival.digest) else {
            return;
        };
        if !Arc::ptr_eq(&flight.arrival, &self.arrival) {
            return;
        }
        flight.wanted -= 1;
        if flight.wanted == 0 && !self.arrival.progress.borrow().is_mostly_here() {
            flight.abandoned.notify_one();
            flights.remove(&self.arrival.digest);
        }
    }
}
