//! Writes Prometheus' text format, version 0.0.4.
//!
//! By hand rather than with a client library: those keep metrics as live objects, where everything here is
//! read from values that exist anyway; and OpenMetrics, which they write, forbids a gauge to be named `_total`,
//! which kube-proxy has.

use std::fmt::{Display, Write as _};

use crate::apply::Histogram;

/// Content type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a metric moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Metrics, written one after the other.
#[derive(Default, Debug)]
pub(super) struct Text(String);

/// One metric, for its samples.
pub(super) struct Metric<'a> {
    text: &'a mut String,
    name: &'static str,
}

/// Labels of a sample.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    /// Begins a metric.
    pub(super) fn metric(&mut self, kind: Kind, name: &'static str, help: &str) -> Metric<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        put(
            &mut self.0,
            format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
        );
        Metric {
            text: &mut self.0,
            name,
        }
    }

    /// A metric with one sample, which has no labels.
    pub(super) fn single(&mut self, kind: Kind, name: &'static str, help: &str, value: impl Display) {
        self.metric(kind, name, help).sample(&[], value);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Metric<'_> {
    /// Adds a sample.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Adds a sample of durations, in seconds.
    pub(super) fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        for (bound, count) in histogram.cumulative() {
            let bound = bound.as_secs_f64().to_string();
            self.line("_bucket", labels, Some(&bound), count);
        }
        self.line("_bucket", labels, Some("+Inf"), histogram.count());
        self.line("_sum", labels, None, histogram.sum().as_secs_f64());
        self.line("_count", labels, None, histogram.count());
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: impl Display) {
        let name = self.name;
        put(self.text, format_args!("{name}{suffix}"));
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (label, value) in labels {
            put(self.text, format_args!("{before}{label}=\"{}\"", escaped(value)));
            before = ',';
        }
        let end = if before == ',' { "}" } else { "" };
        put(self.text, format_args!("{end} {value}\n"));
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string succeeds");
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.single(Kind::Gauge, "a", "One.", 0.5);
        let mut metric = text.metric(Kind::Counter, "b_total", "Several.");
        metric.sample(&[("kind", "x"), ("why", "say \"no\"\\\n")], 3);
        let expected = "# HELP a One.\n# TYPE a gauge\na 0.5\n\
            # HELP b_total Several.\n# TYPE b_total counter\nb_total{kind=\"x\",why=\"say \\\"no\\\"\\\\\\n\"} 3\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_is_cumulative_and_complete() {
        const BOUNDS: &[Duration] = &[Duration::from_millis(1), Duration::from_secs(2)];
        let mut histogram = Histogram::new(BOUNDS);
        for ms in [1, 500, 3000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut text = Text::default();
        text.metric(Kind::Histogram, "h", "H.")
            .histogram(&[("f", "4")], &histogram);
        let expected = "# HELP h H.\n# TYPE h histogram\nh_bucket{f=\"4\",le=\"0.001\"} 1\n\
            h_bucket{f=\"4\",le=\"2\"} 2\nh_bucket{f=\"4\",le=\"+Inf\"} 3\nh_sum{f=\"4\"} 3.501\nh_count{f=\"4\"} 3\n";
        assert_eq!(text.finish(), expected);
    }
}
