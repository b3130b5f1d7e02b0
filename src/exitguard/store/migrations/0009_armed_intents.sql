-- The close of an open position may be committed before anything has breached: armed, and one for each position.

ALTER TABLE order_intents DROP CONSTRAINT order_intents_status_check;
ALTER TABLE order_intents ADD CONSTRAINT order_intents_status_check CHECK (
    status IN ('armed', 'intended', 'unknown', 'working', 'filled', 'canceled', 'expired', 'rejected')
);
ALTER TABLE order_intents ADD CONSTRAINT order_intents_armed_close CHECK (
    status <> 'armed' OR (purpose = 'close' AND position_id IS NOT NULL)
);
CREATE UNIQUE INDEX order_intents_one_armed ON order_intents (account_name, position_id) WHERE status = 'armed';

--! SELECT EXISTS (SELECT FROM pg_constraint
--!     WHERE conname = 'order_intents_armed_close' AND conrelid = 'public.order_intents'::regclass)
