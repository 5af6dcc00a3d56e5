use super::*;
use crate::{Error, LeastLoaded, RoundRobin};

fn name() -> ServiceName {
    ServiceName::parse("www").unwrap()
}

fn endpoint(i: u16) -> Arc<Endpoint> {
    let id = InstanceId::parse(i.to_string()).unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], i));
    let cookie = CookieKey::new([1; 32]).cookie(&name(), &id);
    Arc::new(Endpoint::new(id, addr, cookie))
}

fn wish(now: Instant) -> Wish<'static> {
    Wish {
        leader: false,
        sticky: None,
        random: 3,
        now,
    }
}

fn chosen(view: &View, wish: Wish<'_>, tried: &Tried) -> Option<u16> {
    view.choose(wish, tried).map(|e| e.addr().port())
}

#[tokio::test]
async fn an_ejected_endpoint_is_the_last_resort() {
    let endpoints = [endpoint(1), endpoint(2)];
    let view = View::build(&endpoints, None, &RoundRobin);
    let now = Instant::now();
    endpoints[0].refused(now);
    for _ in 0..4 {
        assert_eq!(chosen(&view, wish(now), &Tried::default()), Some(2));
    }
    let mut tried = Tried::default();
    tried.push(Arc::clone(&endpoints[1]), HowTried::Refused);
    assert_eq!(chosen(&view, wish(now), &tried), Some(1));
    tried.push(Arc::clone(&endpoints[0]), HowTried::Refused);
    assert_eq!(chosen(&view, wish(now), &tried), None);
}

#[tokio::test]
async fn an_endpoint_that_lost_a_connection_is_tried_again_when_there_is_no_other() {
    let endpoints = [endpoint(1), endpoint(2)];
    let view = View::build(&endpoints, None, &LeastLoaded);
    let now = Instant::now();
    let mut tried = Tried::default();
    tried.push(Arc::clone(&endpoints[0]), HowTried::Lost);
    assert_eq!(chosen(&view, wish(now), &tried), Some(2));
    tried.push(Arc::clone(&endpoints[1]), HowTried::Refused);
    assert_eq!(chosen(&view, wish(now), &tried), Some(1));
}

#[tokio::test]
async fn a_leader_route_goes_to_the_leader_or_nowhere() {
    let endpoints = [endpoint(1), endpoint(2), endpoint(3)];
    let view = View::build(&endpoints, Some(endpoints[2].id()), &LeastLoaded);
    let wish = Wish {
        leader: true,
        ..wish(Instant::now())
    };
    let mut tried = Tried::default();
    assert_eq!(chosen(&view, wish, &tried), Some(3));
    tried.push(Arc::clone(&endpoints[2]), HowTried::Refused);
    assert_eq!(chosen(&view, wish, &tried), None);
    let headless = View::build(&endpoints, None, &LeastLoaded);
    assert_eq!(chosen(&headless, wish, &Tried::default()), None);
}

#[tokio::test]
async fn a_cookie_leads_back_to_its_endpoint_while_that_is_well() {
    let endpoints = [endpoint(1), endpoint(2), endpoint(3)];
    let view = View::build(&endpoints, None, &RoundRobin);
    let now = Instant::now();
    let sticky = Some(endpoints[1].cookie());
    for _ in 0..4 {
        assert_eq!(
            chosen(
                &view,
                Wish {
                    sticky,
                    ..wish(now)
                },
                &Tried::default()
            ),
            Some(2)
        );
    }
    endpoints[1].refused(now);
    assert_ne!(
        chosen(
            &view,
            Wish {
                sticky,
                ..wish(now)
            },
            &Tried::default()
        ),
        Some(2)
    );
    let forged = Wish {
        sticky: Some("00"),
        ..wish(now)
    };
    assert!(chosen(&view, forged, &Tried::default()).is_some());
}

#[test]
fn a_cookie_says_nothing_and_depends_on_key_service_and_instance() {
    let id = |i: &str| InstanceId::parse(i).unwrap();
    let key = CookieKey::new([1; 32]);
    let cookie = key.cookie(&name(), &id("a"));
    assert_eq!(cookie.len(), 32);
    assert_eq!(cookie, key.cookie(&name(), &id("a")));
    assert_ne!(cookie, key.cookie(&name(), &id("b")));
    assert_ne!(
        cookie,
        key.cookie(&ServiceName::parse("x").unwrap(), &id("a"))
    );
    assert_ne!(cookie, CookieKey::new([2; 32]).cookie(&name(), &id("a")));
    assert!(!format!("{key:?}").contains('1'));
}

/// Says one set, then fails for good.
#[derive(Debug)]
struct Lost(std::sync::atomic::AtomicBool);

impl EndpointSource for Lost {
    fn watch(
        &self,
        _: &ServiceName,
    ) -> futures::stream::BoxStream<'static, crate::Result<EndpointSet>> {
        let is_first = !self.0.swap(true, std::sync::atomic::Ordering::SeqCst);
        let set = crate::StaticEndpoints::new().with(name(), ["127.0.0.1:1"]);
        let first = is_first.then(|| set.watch(&name()).take(1));
        let lost = futures::stream::iter([Err(Error::Discovery {
            operation: "watching",
            source: flynn_discovery::Error::Closed { backend: "test" },
        })]);
        futures::stream::iter(first).flatten().chain(lost).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_known_stays_when_the_source_is_lost() {
    let source = Arc::new(Lost(false.into()));
    let service = Service::start(
        name(),
        source,
        Arc::new(LeastLoaded),
        CookieKey::new([0; 32]),
    );
    service.known().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(service.view().endpoints.len(), 1);
}
