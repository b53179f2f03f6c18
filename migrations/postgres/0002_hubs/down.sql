DROP INDEX calls_live_hub;
DROP TABLE imports;
DROP TABLE applied_batches;
DROP TABLE leases;
DROP TABLE hubs;
