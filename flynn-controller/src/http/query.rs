//! What can be asked of lists and streams.

use flynn_discovery::http::segment;

use crate::{model::EventKind, store::EventFilter, streams::LogQuery};

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventQuery {
    /// Only those about this app, by id or name.
    pub app: Option<String>,
    /// Only these kinds; empty: all.
    pub kinds: Vec<EventKind>,
    /// Only those about this object.
    pub object_id: Option<String>,
    /// Begin a stream with what has happened already.
    pub past: bool,
    /// At most so many.
    pub count: Option<usize>,
    /// Only those before this one.
    pub before: Option<i64>,
    /// Only those after this one.
    pub since: Option<i64>,
}

impl EventQuery {
    /// All events of an app.
    #[must_use]
    pub fn of(app: impl Into<String>) -> Self {
        Self {
            app: Some(app.into()),
            ..Self::default()
        }
    }

    /// Only these kinds.
    #[must_use]
    pub fn only(mut self, kinds: &[EventKind]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    /// Only those about this object.
    #[must_use]
    pub fn about(mut self, object_id: impl Into<String>) -> Self {
        self.object_id = Some(object_id.into());
        self
    }

    /// With what has happened already.
    #[must_use]
    pub fn with_past(mut self) -> Self {
        self.past = true;
        self
    }

    pub(super) fn path(&self) -> String {
        let mut query = Query::default();
        query.text("app_id", self.app.as_deref());
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
        query.text(
            "object_types",
            (!kinds.is_empty()).then(|| kinds.join(",")).as_deref(),
        );
        query.text("object_id", self.object_id.as_deref());
        query.flag("past", self.past);
        query.number("count", self.count);
        query.number("before_id", self.before);
        query.number("since_id", self.since);
        query.on("/events")
    }

    /// The same as a filter of the store, once the app is known by its id.
    #[must_use]
    pub fn filter(&self, app_id: Option<String>) -> EventFilter {
        EventFilter {
            app: app_id,
            kinds: self.kinds.clone(),
            object_id: self.object_id.clone(),
            before: self.before,
            since: self.since,
            count: self.count,
        }
    }
}

/// The path and query of an app's log.
pub(super) fn log_path(log: &LogQuery, app: &str) -> String {
    let mut query = Query::default();
    query.flag("follow", log.follow);
    query.number("lines", log.lines);
    query.text("job_id", log.job.as_deref());
    query.text("process_type", log.process_type.as_deref());
    let streams = log.streams.join(",");
    query.text("stream_types", (!streams.is_empty()).then_some(&*streams));
    query.on(&format!("/apps/{}/log", segment(app)))
}

#[derive(Debug, Default)]
struct Query(Vec<String>);

impl Query {
    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.0.push(format!("{name}={}", segment(value)));
        }
    }

    fn number(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.0.push(format!("{name}={value}"));
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.0.push(format!("{name}=true"));
        }
    }

    fn on(&self, path: &str) -> String {
        if self.0.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{}", self.0.join("&"))
        }
    }
}
