-- Played by `make run`; every statement below should turn up in audit.log, the failing ones too.
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace');
SELECT name FROM users ORDER BY id;
-- fails: the key exists
INSERT INTO users VALUES (1, 'Eve');
-- bob may read, and is denied the rest
CREATE ROLE bob LOGIN;
GRANT SELECT ON users TO bob;
\connect - bob
SELECT count(*) FROM users;
DELETE FROM users;
\connect - postgres
-- undone, and still on record
BEGIN;
UPDATE users SET name = 'nobody' WHERE id = 2;
ROLLBACK;
DROP TABLE users;
DROP ROLE bob;
