-- What the example left in the trail, cut to the width of a terminal. :before is the last seq before it.
SELECT audit.flush() \g /dev/null
\pset null ''
\pset footer off
SELECT seq,
       to_char(started_at, 'HH24:MI:SS.MS') AS time,
       user_name,
       command,
       coalesce(object_name, array_to_string(relations, ', ')) AS object,
       rows,
       outcome,
       sqlstate,
       transaction_outcome AS transaction,
       CASE WHEN length(line) > 60 THEN left(line, 57) || '...' ELSE line END AS statement
FROM (SELECT *, regexp_replace(statement, '\s+', ' ', 'g') AS line FROM audit.log) AS log
WHERE seq > :before AND application_name = 'example'
ORDER BY seq;
