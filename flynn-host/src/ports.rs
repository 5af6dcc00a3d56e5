//! Which ports jobs get.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, TcpListener},
    ops::RangeInclusive,
};

use flynn_sched::{JobId, Port};
use tokio::net::TcpSocket;

use crate::{Error, Result};

/// Gives jobs ports of a range on one address. A job keeps its ports until they are [released](Self::release), through
/// its restarts and, by way of the journal, those of the daemon.
///
/// A fixed port has one owner, unless all who want it announce it as the same service and listen with `SO_REUSEPORT`:
/// that is how several routers of a host serve one port, and how a router is replaced without a gap.
#[derive(Debug)]
pub struct PortAllocator {
    addr: IpAddr,
    range: RangeInclusive<u16>,
    /// Where the search begins. Ports are not handed out again at once: clients of the last owner may still come.
    next: u16,
    by_job: BTreeMap<JobId, Vec<u16>>,
    taken: BTreeMap<u16, Owners>,
}

/// The jobs that have a port.
#[derive(Debug)]
struct Owners {
    jobs: usize,
    /// As what all of them announce it. `None`: it is not announced, and not to be shared.
    service: Option<String>,
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
            taken: BTreeMap::new(),
        }
    }

    /// Notes ports that a job has from an earlier life of the daemon, in the order in which it `wanted` them.
    pub fn restore(&mut self, job: &JobId, wanted: &[Port], ports: &[u16]) {
        self.release(job);
        for (index, port) in ports.iter().enumerate() {
            self.take(*port, wanted.get(index).and_then(service));
        }
        self.by_job.insert(job.clone(), ports.to_vec());
    }

    /// The job's ports, in the order of `wanted`: those it has, or new ones that nobody listens on.
    ///
    /// # Errors
    ///
    /// [`Error::PortInUse`] when a fixed port is taken and cannot be shared; [`Error::NoPortFree`] when all others are.
    pub fn allocate(&mut self, job: &JobId, wanted: &[Port]) -> Result<Vec<u16>> {
        if let Some(ports) = self.by_job.get(job).filter(|p| p.len() == wanted.len()) {
            return Ok(ports.clone());
        }
        self.release(job);
        let mut ports = Vec::with_capacity(wanted.len());
        for port in wanted {
            let chosen = match port.port {
                Some(fixed) => self.fixed(fixed, service(port)),
                None => self.free(),
            };
            match chosen {
                Ok(number) => {
                    self.take(number, service(port));
                    ports.push(number);
                }
                Err(error) => {
                    for port in ports {
                        self.give_back(port);
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
            self.give_back(port);
        }
    }

    fn take(&mut self, port: u16, service: Option<&str>) {
        let owners = self.taken.entry(port).or_insert_with(|| Owners {
            jobs: 0,
            service: service.map(str::to_owned),
        });
        owners.jobs += 1;
    }

    fn give_back(&mut self, port: u16) {
        if let Some(owners) = self.taken.get_mut(&port) {
            owners.jobs -= 1;
            if owners.jobs == 0 {
                self.taken.remove(&port);
            }
        }
    }

    fn fixed(&self, port: u16, service: Option<&str>) -> Result<u16> {
        let is_free = match self.taken.get(&port) {
            None => can_bind(self.addr, port),
            Some(owners) => {
                service.is_some()
                    && owners.service.as_deref() == service
                    && can_share(self.addr, port).is_ok()
            }
        };
        if !is_free {
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
            if !self.taken.contains_key(&port) && can_bind(everywhere, port) {
                return Ok(port);
            }
        }
        Err(Error::NoPortFree { first, last })
    }
}

fn service(port: &Port) -> Option<&str> {
    port.service.as_ref().map(|service| &*service.name)
}

fn can_bind(addr: IpAddr, port: u16) -> bool {
    TcpListener::bind((addr, port)).is_ok()
}

/// Do those who listen on the port, if anybody does yet, let others listen too? The socket of this question is bound and
/// never listens: it would be given a share of the connections.
fn can_share(addr: IpAddr, port: u16) -> io::Result<()> {
    let socket = match addr {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind((addr, port).into())
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

    /// A port number that nobody listens on, as a job would insist on it.
    fn insisting_on(number: u16, service: Option<&str>) -> Port {
        Port {
            port: Some(number),
            service: service.map(|name| flynn_sched::Service {
                name: name.to_owned(),
                check: None,
            }),
            ..Port::default()
        }
    }

    #[test]
    fn jobs_of_one_service_share_a_fixed_port_and_nobody_else_gets_it() {
        let mut ports = allocator();
        let number = ports.next;
        let edge = [insisting_on(number, Some("edge"))];
        ports.allocate(&job("a"), &edge).unwrap();
        assert_eq!(ports.allocate(&job("b"), &edge).unwrap(), [number]);
        for stranger in [Some("other"), None] {
            let wanted = [insisting_on(number, stranger)];
            let error = ports.allocate(&job("c"), &wanted).unwrap_err();
            assert!(matches!(error, Error::PortInUse { .. }), "{error}");
        }
        // It is free when the last of them is gone, also when they are remembered from an earlier life.
        ports.release(&job("a"));
        ports.restore(&job("b"), &edge, &[number]);
        let other = [insisting_on(number, Some("other"))];
        ports.allocate(&job("c"), &other).unwrap_err();
        ports.release(&job("b"));
        ports.allocate(&job("c"), &other).unwrap();
    }

    #[test]
    fn a_port_whose_owner_does_not_share_it_is_in_use_for_its_own_service_too() {
        let mut ports = allocator();
        let edge = [insisting_on(ports.next, Some("edge"))];
        let number = ports.allocate(&job("a"), &edge).unwrap()[0];
        let listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        let error = ports.allocate(&job("b"), &edge).unwrap_err();
        assert!(matches!(error, Error::PortInUse { .. }), "{error}");
        drop(listener);
        ports.allocate(&job("b"), &edge).unwrap();
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
        ports.restore(&job("a"), &[Port::default()], &[next]);
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
