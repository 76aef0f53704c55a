//! A step as a trace for `chrome://tracing` and Perfetto: the launches one after another on a line of time.

use serde_json::{Value, json};

use super::{GpuLaunch, Launch, Profile};

/// The one process of the trace.
const PROCESS: u32 = 1;

impl Profile {
    /// The trace as JSON (Trace Event Format): one track of predicted times and one of measured ones, where there are any. A
    /// launch begins where the one before it ends.
    pub fn trace(&self) -> String {
        let mut events = vec![meta("process_name", 0, &self.subject())];
        let predicted = |launch: &Launch| launch.gpu.as_ref().map(|gpu| gpu.predicted_seconds);
        let gpu = self.gpu.as_ref().map_or("", |gpu| &gpu.name);
        events.extend(self.track(1, &format!("predicted for {gpu}"), predicted));
        let measured = format!("measured on {}", self.setting.device);
        events.extend(self.track(2, &measured, |launch| launch.measured_seconds));
        json!({
            "displayTimeUnit": "ns",
            "otherData": { "version": self.version, "setting": self.setting, "gpu": self.gpu, "totals": self.totals },
            "traceEvents": events,
        })
        .to_string()
    }

    /// The launches that `seconds` has a time for; nothing if there are none.
    fn track(&self, thread: u32, name: &str, seconds: impl Fn(&Launch) -> Option<f64>) -> Vec<Value> {
        let mut start_us = 0.0;
        let timed = self.launches.iter().filter_map(|launch| Some((launch, seconds(launch)?)));
        let events = timed.map(|(launch, seconds)| {
            let event = json!({
                "name": name_of(launch),
                "cat": launch.phase,
                "ph": "X",
                "pid": PROCESS,
                "tid": thread,
                "ts": start_us,
                "dur": 1e6 * seconds,
                "args": launch,
            });
            start_us += 1e6 * seconds;
            event
        });
        let events: Vec<Value> = events.collect();
        let heading = (!events.is_empty()).then(|| meta("thread_name", thread, name));
        heading.into_iter().chain(events).collect()
    }
}

fn name_of(launch: &Launch) -> String {
    let what = launch.gpu.as_ref().map_or(&launch.operation, |GpuLaunch { kernel, .. }| kernel);
    format!("{} {what}", launch.layer)
}

/// The event that names the process or a track.
fn meta(what: &str, thread: u32, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "pid": PROCESS, "tid": thread, "args": { "name": name } })
}
