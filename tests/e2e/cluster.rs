//! Several hubs over one Postgres and one Redis, behind one address, while processes are killed and networks cut.

mod bed;
mod calls;
mod chaos;
mod cuts;
mod nodes;
mod outages;
mod proxy;
mod rolling;
mod tasks;
