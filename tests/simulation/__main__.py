from simulation.run import main

raise SystemExit(main())
