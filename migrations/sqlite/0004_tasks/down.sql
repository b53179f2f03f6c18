DROP INDEX calls_tasks;
