//! Everything of this crate, seen from outside.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod autoscale;
mod autoscale_properties;
mod autoscale_time;
mod bad_input;
mod batches;
mod budgets;
mod checker;
mod clusters;
mod constraints;
mod contention;
mod cron;
mod drivers;
mod fairness;
mod fixture;
mod gangs;
mod placement;
mod placement_search;
mod preemption;
mod rebalancing;
mod remote;
mod reservations;
mod rules;
mod safety;
mod services;
mod sim_architectures;
mod sim_cells;
mod sim_orderings;
mod sim_plots;
mod sim_traces;
mod simulation;
mod stored;
mod transactions;
mod what_if;
mod what_if_hypotheses;
mod what_if_properties;
