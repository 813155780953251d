//! Outcomes to ledger to time series
