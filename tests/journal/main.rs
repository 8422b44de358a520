//! The turn journal from outside: what it promises, on sound disks, damaged files and failing disks.

mod damage;
mod faults;
mod kit;
mod life;
mod mem_disk;
mod schedules;
