SELECT exitguard.channel($1)
