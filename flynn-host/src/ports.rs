//! Which ports jobs get.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, TcpListener},
    ops::RangeInclusive,
};

use flynn_sched::{JobId, Port};

use crate::{Error, Result};

/// Gives jobs ports of a range on one address. A job keeps its ports until they are [released](Self::release), through
/// its restarts and, by way of the journal, those of the daemon.
#[derive(Debug)]
pub struct PortAllocator {
    addr: IpAddr,
    range: RangeInclusive<u16>,
    /// Where the search begins. Ports are not handed out again at once: clients of the last owner may still come.
    next: u16,
    by_job: BTreeMap<JobId, Vec<u16>>,
    taken: BTreeSet<u16>,
}

impl PortAllocator {
    /// The range, if nothing else is said. It lies below the ports that the kernel gives to outgoing connections.
    pub const DEFAULT_RANGE: RangeInclusive<u16> = 20_000..=29_999;

    /// An allocator for `addr`. Hosts that share a machine should have ranges of their own; `seed` lets those that do
    /// not begin their search at different places.
    #[must_use]
    pub fn new(addr: IpAddr, range: RangeInclusive<u16>, seed: &str) -> Self {
        let hash = seed.bytes().fold(2_166_136_261_u32, |h, b| {
            (h ^ u32::from(b)).wrapping_mul(16_777_619)
        });
        let size = u32::from(range.end().saturating_sub(*range.start())) + 1;
        let offset = u16::try_from(hash % size).unwrap_or(0);
        Self {
            addr,
            next: range.start() + offset,
            range,
            by_job: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }

    /// Notes ports that a job has from an earlier life of the daemon.
    pub fn restore(&mut self, job: &JobId, ports: &[u16]) {
        self.taken.extend(ports);
        self.by_job.insert(job.clone(), ports.to_vec());
    }

    /// The job's ports, in the order of `wanted`: those it has, or new ones that nobody listens on.
    ///
    /// # Errors
    ///
    /// [`Error::PortInUse`] when a fixed port is taken; [`Error::NoPortFree`] when all others are.
    pub fn allocate(&mut self, job: &JobId, wanted: &[Port]) -> Result<Vec<u16>> {
        if let Some(ports) = self.by_job.get(job).filter(|p| p.len() == wanted.len()) {
            return Ok(ports.clone());
        }
        self.release(job);
        let mut ports = Vec::with_capacity(wanted.len());
        for port in wanted {
            let chosen = match port.port {
                Some(fixed) => self.fixed(fixed),
                None => self.free(),
            };
            match chosen {
                Ok(port) => {
                    self.taken.insert(port);
                    ports.push(port);
                }
                Err(error) => {
                    for port in ports {
                        self.taken.remove(&port);
                    }
                    return Err(error);
                }
            }
        }
        self.by_job.insert(job.clone(), ports.clone());
        Ok(ports)
    }

    /// Takes a job's ports back.
    pub fn release(&mut self, job: &JobId) {
        for port in self.by_job.remove(job).unwrap_or_default() {
            self.taken.remove(&port);
        }
    }

    fn fixed(&self, port: u16) -> Result<u16> {
        if self.taken.contains(&port) || !self.can_bind(self.addr, port) {
            return Err(Error::PortInUse {
                port,
                addr: self.addr.to_string(),
            });
        }
        Ok(port)
    }

    fn free(&mut self) -> Result<u16> {
        let (first, last) = (*self.range.start(), *self.range.end());
        for _ in self.range.clone() {
            let port = self.next;
            self.next = if port >= last { first } else { port + 1 };
            // Many programs listen on every address, whatever they are told.
            let everywhere = if self.addr.is_ipv6() {
                IpAddr::from([0; 16])
            } else {
                IpAddr::from([0; 4])
            };
            if !self.taken.contains(&port) && self.can_bind(everywhere, port) {
                return Ok(port);
            }
        }
        Err(Error::NoPortFree { first, last })
    }

    fn can_bind(&self, addr: IpAddr, port: u16) -> bool {
        TcpListener::bind((addr, port)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str) -> JobId {
        JobId::parse(id).unwrap()
    }

    fn allocator() -> PortAllocator {
        PortAllocator::new(
            IpAddr::from([127, 0, 0, 1]),
            PortAllocator::DEFAULT_RANGE,
            "h",
        )
    }

    #[test]
    fn a_job_keeps_its_ports_and_no_other_gets_them() {
        let mut ports = allocator();
        let wanted = vec![Port::default(), Port::default()];
        let first = ports.allocate(&job("a"), &wanted).unwrap();
        let second = ports.allocate(&job("b"), &wanted).unwrap();
        assert!(first.iter().all(|p| !second.contains(p)));
        assert_eq!(ports.allocate(&job("a"), &wanted).unwrap(), first);
    }

    #[test]
    fn a_port_someone_listens_on_is_passed_over() {
        let mut ports = allocator();
        let listener = TcpListener::bind(("127.0.0.1", ports.next)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        assert_ne!(
            ports.allocate(&job("a"), &[Port::default()]).unwrap(),
            [taken]
        );
        let fixed = Port {
            port: Some(taken),
            ..Port::default()
        };
        let error = ports.allocate(&job("b"), &[fixed]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {taken} is in use on 127.0.0.1")
        );
    }

    #[test]
    fn a_full_range_says_so_and_is_free_again_after_a_release() {
        let first = allocator().next;
        let mut ports = PortAllocator::new(IpAddr::from([127, 0, 0, 1]), first..=first, "h");
        ports.allocate(&job("a"), &[Port::default()]).unwrap();
        let error = ports.allocate(&job("b"), &[Port::default()]).unwrap_err();
        assert!(matches!(error, Error::NoPortFree { .. }));
        ports.release(&job("a"));
        ports.allocate(&job("b"), &[Port::default()]).unwrap();
    }

    #[test]
    fn ports_of_an_earlier_life_are_kept() {
        let mut ports = allocator();
        let next = ports.next;
        ports.restore(&job("a"), &[next]);
        assert_eq!(
            ports.allocate(&job("a"), &[Port::default()]).unwrap(),
            [next]
        );
        assert_ne!(
            ports.allocate(&job("b"), &[Port::default()]).unwrap(),
            [next]
        );
    }
}
