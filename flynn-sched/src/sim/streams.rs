//! Randomness: one stream a purpose, so that drawing more of one thing changes nothing about another.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::workload::Class;

/// What random numbers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Interarrival(Class),
    Tasks(Class),
    Duration(Class),
    Request(Class),
    Kind(Class),
    Machines,
    Residents(Class),
    Filling,
    /// Placing what is there at the beginning.
    Settling,
    /// The choices of one scheduler.
    Choosing(u32),
}

/// The stream of a purpose.
pub(super) fn stream(seed: u64, purpose: Purpose) -> ChaCha8Rng {
    let number = match purpose {
        Purpose::Machines => 0,
        Purpose::Filling => 1,
        Purpose::Settling => 2,
        Purpose::Interarrival(class) => 10 + offset(class),
        Purpose::Tasks(class) => 20 + offset(class),
        Purpose::Duration(class) => 30 + offset(class),
        Purpose::Request(class) => 40 + offset(class),
        Purpose::Kind(class) => 50 + offset(class),
        Purpose::Residents(class) => 60 + offset(class),
        Purpose::Choosing(scheduler) => 1000 + u64::from(scheduler),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    rng
}

fn offset(class: Class) -> u64 {
    match class {
        Class::Batch => 0,
        Class::Service => 1,
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn no_two_purposes_share_a_stream() {
        let mut purposes = vec![Purpose::Machines, Purpose::Filling, Purpose::Settling];
        for class in Class::ALL {
            purposes.extend([
                Purpose::Interarrival(class),
                Purpose::Tasks(class),
                Purpose::Duration(class),
                Purpose::Request(class),
                Purpose::Kind(class),
                Purpose::Residents(class),
            ]);
        }
        purposes.extend((0..4).map(Purpose::Choosing));
        let mut draws: Vec<u64> = purposes
            .iter()
            .map(|purpose| stream(7, *purpose).random())
            .collect();
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), purposes.len());
    }
}
