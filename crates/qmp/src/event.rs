//! What a server says unasked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};

/// An event, with the time at which it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, in capitals: `STOP`.
    pub name: &'static str,
    /// What goes with it; left out where there is nothing.
    pub data: Map<String, Value>,
    /// When it happened.
    pub time: SystemTime,
}

/// `timestamp` (QMP specification, "Asynchronous events"): both are -1 where the clock is not to
/// be had.
#[derive(Serialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

#[derive(Serialize)]
struct Message<'a> {
    timestamp: Timestamp,
    event: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    data: &'a Map<String, Value>,
}

impl Event {
    /// An event that happens now. `data` is an object or null.
    pub fn now(name: &'static str, data: Value) -> Self {
        let data = match data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        Self {
            name,
            data,
            time: SystemTime::now(),
        }
    }

    /// The line as it is sent, with its end.
    pub fn line(&self) -> Vec<u8> {
        crate::session::line(&Message {
            timestamp: timestamp(self.time),
            event: self.name,
            data: &self.data,
        })
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).ok();
    let parts = since.and_then(|since: Duration| {
        let seconds = i64::try_from(since.as_secs()).ok()?;
        Some((seconds, since.subsec_micros().into()))
    });
    let (seconds, microseconds) = parts.unwrap_or((-1, -1));
    Timestamp {
        seconds,
        microseconds,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line_with_its_time() {
        let mut event = Event::now("DEVICE_DELETED", json!({ "device": "d0" }));
        event.time = UNIX_EPOCH + Duration::from_micros(1_000_002);
        let text = String::from_utf8(event.line()).unwrap();
        assert_eq!(
            text,
            "{\"timestamp\":{\"seconds\":1,\"microseconds\":2},\
             \"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"d0\"}}\r\n"
        );
        event.data.clear();
        event.time = UNIX_EPOCH - Duration::from_secs(1);
        let text = String::from_utf8(event.line()).unwrap();
        assert!(text.contains("\"seconds\":-1") && !text.contains("data"));
    }
}
