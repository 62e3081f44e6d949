//! `/metrics` for Prometheus: base units, `_total` for counters, queues and kinds as the only labels.
//!
//! Open like the health checks, for it names no user and no file; keep it behind the proxy if depth itself is a secret.

use std::fmt::Error;

use driftless_domain::{
    Domain,
    metrics::{self, Snapshot},
};
use poem::{IntoResponse, Response, handler, web::Data};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::problem::ApiError;

#[handler]
pub(crate) async fn scrape(Data(domain): Data<&Domain>) -> Response {
    match metrics::read(domain).await {
        Ok(snapshot) => render(snapshot),
        Err(e) => poem::Error::from(ApiError::from(e)).into_response(),
    }
}

fn render(snapshot: Snapshot) -> Response {
    let mut registry = Registry::with_prefix("driftless");
    registry.register_collector(Box::new(Numbers(snapshot)));
    let mut body = String::new();
    text::encode(&mut body, &registry).expect("writing into a string can't fail");
    body.with_content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").into_response()
}

#[derive(Debug)]
struct Numbers(Snapshot);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfQueue {
    queue: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    queue: String,
    kind: String,
}

impl Collector for Numbers {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), Error> {
        self.queues(&mut to)?;
        self.this_process(&mut to)?;
        let t = &self.0.totals;
        gauge(&mut to, "workers_alive", "Worker processes whose lease holds", None, t.workers_alive as f64)?;
        gauge(
            &mut to,
            "schedules_overdue",
            "Schedules that should have fired over 5 s ago",
            None,
            t.schedules_overdue as f64,
        )?;
        let help = "Age of the oldest snapshot that keeps dead rows from being removed, in transactions";
        gauge(&mut to, "postgres_xmin_age_transactions", help, None, t.xmin_age_transactions as f64)?;
        let help = "Age of the oldest open transaction";
        gauge(&mut to, "postgres_oldest_transaction", help, Some(&Unit::Seconds), t.oldest_transaction_seconds)?;
        gauge(&mut to, "queue_table_dead_rows", "Dead rows in the queue's tables", None, t.queue_dead_rows as f64)?;
        gauge(&mut to, "queue_table_live_rows", "Live rows in the queue's tables", None, t.queue_live_rows as f64)
    }
}

fn gauge(to: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> Result<(), Error> {
    to.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
}

impl Numbers {
    fn queues(&self, to: &mut DescriptorEncoder) -> Result<(), Error> {
        type Read = fn(&driftless_domain::queues::QueueState) -> f64;
        let gauges: [(&str, &str, Option<&Unit>, Read); 5] = [
            ("jobs_ready", "Due jobs that wait for a worker", None, |q| q.ready as f64),
            ("jobs_scheduled", "Jobs that are not due yet", None, |q| q.scheduled as f64),
            ("jobs_running", "Jobs at work", None, |q| q.running as f64),
            ("jobs_dead", "Jobs that wait for a person", None, |q| q.dead as f64),
            ("jobs_oldest_ready_age", "How long the oldest due job has waited", Some(&Unit::Seconds), |q| {
                q.oldest_ready_seconds
            }),
        ];
        for (name, help, unit, read) in gauges {
            let mut family = to.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for q in &self.0.queues {
                family.encode_family(&OfQueue { queue: q.queue.clone() })?.encode_gauge(&read(q))?;
            }
        }
        let help = "Jobs that want a worker now or within a minute, for autoscalers";
        let mut family = to.encode_descriptor("jobs_demand", help, None, MetricType::Gauge)?;
        for d in &self.0.demand {
            family.encode_family(&OfQueue { queue: d.queue.clone() })?.encode_gauge(&(d.jobs as f64))?;
        }
        Ok(())
    }

    fn this_process(&self, to: &mut DescriptorEncoder) -> Result<(), Error> {
        type Count = fn(&driftless_domain::metrics::KindMetrics) -> u64;
        let Some(p) = &self.0.process else { return Ok(()) };
        let counters: [(&str, &str, Count); 3] = [
            ("jobs_done", "Runs that ended well, in this process", |k| k.done),
            ("jobs_failed", "Runs that failed, in this process", |k| k.failed),
            ("jobs_died", "Jobs that died, in this process", |k| k.dead),
        ];
        for (name, help, read) in counters {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for k in &p.kinds {
                let labels = OfKind { queue: k.queue.clone(), kind: k.kind.clone() };
                family.encode_family(&labels)?.encode_counter::<OfKind, u64, u64>(&read(k), None)?;
            }
        }
        type Times = fn(&driftless_domain::metrics::KindMetrics) -> &driftless_domain::metrics::Distribution;
        let histograms: [(&str, &str, Times); 2] = [
            ("job_run", "How long handlers ran, in this process", |k| &k.run),
            ("job_pickup", "How long jobs waited from due to claimed, in this process", |k| &k.pickup),
        ];
        for (name, help, read) in histograms {
            let mut family = to.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
            for k in &p.kinds {
                let (times, labels) = (read(k), OfKind { queue: k.queue.clone(), kind: k.kind.clone() });
                let bounds = driftless_domain::metrics::BUCKETS.into_iter().chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(times.counts.iter().copied()).collect();
                let count = times.counts.iter().sum();
                family.encode_family(&labels)?.encode_histogram::<OfKind>(times.sum_seconds, count, &buckets, None)?;
            }
        }
        let counters = [
            ("leases_expired", "Leases of other processes that this one found to be over", p.leases_expired),
            ("listener_reconnects", "How often the listening connection was made anew", p.listener_reconnects),
        ];
        for (name, help, value) in counters {
            to.encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<OfKind, u64, u64>(&value, None)?;
        }
        Ok(())
    }
}
