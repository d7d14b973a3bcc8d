//! Which blobs are on their way: one download for each digest, however many want it; a second one
//! only for a repository whose clients would otherwise depend on another registry's failures.
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
pub(super) struct Flights(Arc<Mutex<HashMap<Digest, Vec<Flight>>>>);

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

/// Whose download will do for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terms {
    /// One that is for its repository already.
    Known,
    /// Anybody's: its registry has said that the repository has the blob.
    Granted,
    /// Only one from its own registry: another's has failed it.
    Alone,
}

impl Terms {
    fn take(self, arrival: &Arrival, repository: &RepositoryName) -> bool {
        match self {
            Self::Known => arrival.is_for(repository),
            Self::Granted => arrival.claim(repository),
            Self::Alone => arrival.here == *repository,
        }
    }
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
    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Vec<Flight>>> {
        // Every change is one insertion, removal or count, so a poisoned map is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place.
    pub(super) fn board(
        &self,
        digest: &Digest,
        repository: &RepositoryName,
        terms: Terms,
    ) -> Boarded {
        let mut all = self.all();
        let flights = all.entry(digest.clone()).or_default();
        let own = flights.iter().position(|f| f.arrival.here == *repository);
        let found = own.or_else(|| {
            let mut arrivals = flights.iter().map(|flight| &flight.arrival);
            arrivals.position(|arrival| terms.take(arrival, repository))
        });
        if let Some(flight) = found.and_then(|at| flights.get_mut(at)) {
            flight.wanted += 1;
            return Boarded::Joined(self.seat(&flight.arrival));
        }
        if !flights.is_empty() && terms != Terms::Alone {
            return Boarded::Elsewhere;
        }
        let flight = Flight {
            arrival: Arc::new(Arrival::new(digest.clone(), repository.clone())),
            wanted: 1,
            abandoned: Arc::default(),
        };
        let first = Boarded::First(self.seat(&flight.arrival), Arc::clone(&flight.abandoned));
        flights.push(flight);
        first
    }

    /// Whether the blob is on its way for anybody, to wait for its end.
    pub(super) fn arrival(&self, digest: &Digest) -> Option<Arc<Arrival>> {
        let flights = self.all();
        let first = flights.get(digest)?.first()?;
        Some(Arc::clone(&first.arrival))
    }

    /// The download is over; whoever comes now finds its outcome elsewhere.
    pub(super) fn landed(&self, arrival: &Arc<Arrival>) {
        remove(&mut self.all(), arrival);
    }

    fn seat(&self, arrival: &Arc<Arrival>) -> Seat {
        Seat {
            flights: self.clone(),
            arrival: Arc::clone(arrival),
        }
    }
}

fn remove(flights: &mut HashMap<Digest, Vec<Flight>>, arrival: &Arc<Arrival>) {
    if let Some(same) = flights.get_mut(&arrival.digest) {
        same.retain(|flight| !Arc::ptr_eq(&flight.arrival, arrival));
        if same.is_empty() {
            flights.remove(&arrival.digest);
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
        let same = |flight: &&mut Flight| Arc::ptr_eq(&flight.arrival, &self.arrival);
        let all = flights.get_mut(&self.arrival.digest);
        let Some(flight) = all.and_then(|all| all.iter_mut().find(same)) else {
            return;
        };
        flight.wanted -= 1;
        if flight.wanted == 0 && !self.arrival.progress.borrow().is_mostly_here() {
            flight.abandoned.notify_one();
            remove(&mut flights, &self.arrival);
        }
    }
}
