-- What the release with migration 3 keeps besides: a total of dead letters.

update streams set dead_total = 1 where gateway = 1;
