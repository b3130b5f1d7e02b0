SELECT account_name, account_number FROM accounts
